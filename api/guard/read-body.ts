// The body of a request: bounded, JSON, each member once, no nulls. A typo must never widen or narrow an opt-out silently.
import type { IncomingMessage } from 'node:http';
import type { Context } from 'koa';
import { z } from 'zod';
import { AbideError } from '../../suppression/errors.ts';
import type { Fault } from '../../suppression/errors.ts';
import { placeOf } from './rooms.ts';
import type { Place } from './rooms.ts';

const BODY_BYTES_MAX = 64 * 1024;
const DEPTH_MAX = 32;

const utf8 = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true });

const tooLarge = (limit: number): AbideError =>
  new AbideError('too-large', `A body may have at most ${limit / 1024} KiB.`);

export const isCompressed = (ctx: Context): boolean =>
  (ctx.req.headers['content-encoding'] ?? 'identity').toLowerCase() !== 'identity';

/** Reads and parses a JSON body. Throws AbideError: unsupported-media-type, too-large, malformed-json, overloaded. */
export async function readJson(ctx: Context, limit = BODY_BYTES_MAX): Promise<unknown> {
  const type = ctx.req.headers['content-type'];
  if (type === undefined || !/^application\/json(?:\s*;\s*charset="?utf-8"?)?\s*$/i.test(type)) {
    throw new AbideError('unsupported-media-type');
  }
  if (isCompressed(ctx)) throw new AbideError('unsupported-media-type', 'Compressed bodies are not read.');
  if (Number(ctx.req.headers['content-length'] ?? 0) > limit) throw tooLarge(limit);
  const bytes = await readBytes(ctx.req, limit, placeOf(ctx));
  let text: string;
  try {
    text = utf8.decode(bytes);
  } catch {
    throw new AbideError('malformed-json');
  }
  return parseJson(text);
}

/** Each member once, no unpaired surrogate, not too deep. Throws AbideError('malformed-json'). */
export function parseJson(text: string): unknown {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch {
    throw new AbideError('malformed-json');
  }
  // UTF-8 has no unpaired surrogates: hashed or sealed, two different ones would become the same character.
  if (SURROGATE.test(text) && !isWellFormed(value)) {
    throw new AbideError('malformed-json', 'A text has an unpaired surrogate.');
  }
  // Parsing keeps the last of two members of one name. Counting is cheaper than looking: the names are looked for only if the text
  // has more members than the value.
  const counted = countMembers(value, 0);
  if (membersInText(text) !== counted) throw repeatedMember(text);
  return value;
}

/**
 * By events, because leaving an async iteration early would destroy the socket, and with it the answer that says why. What is not
 * read here is drained once the answer is under way (app.ts).
 */
function readBytes(request: IncomingMessage, limit: number, place: Place): Promise<Buffer> {
  return new Promise((resolve, reject) => {
    const chunks: Buffer[] = [];
    let length = 0;
    const done = (settle: () => void): void => {
      request.off('data', onData).off('end', onEnd).off('close', onGone).off('error', onGone);
      settle();
    };
    const onData = (chunk: Buffer): void => {
      length += chunk.length;
      if (length > limit) return done(() => reject(tooLarge(limit)));
      const full = place.holdBody(length);
      if (full !== undefined) done(() => reject(full));
      else chunks.push(chunk);
    };
    const onEnd = (): void => done(() => resolve(chunks.length === 1 ? chunks[0]! : Buffer.concat(chunks)));
    const onGone = (): void =>
      done(() => reject(new AbideError('invalid-request', 'The connection ended before the body did.')));
    request.on('data', onData).on('end', onEnd).on('close', onGone).on('error', onGone);
  });
}

const SURROGATE = /\\u[dD][89a-fA-F]/;

/** It need not look deeper than what is read at all: anything deeper is refused next. */
function isWellFormed(value: unknown, depth = 0): boolean {
  if (typeof value === 'string') return value.isWellFormed();
  if (typeof value !== 'object' || value === null || depth > DEPTH_MAX) return true;
  if (Array.isArray(value)) return value.every((one) => isWellFormed(one, depth + 1));
  return Object.entries(value).every(([name, one]) => name.isWellFormed() && isWellFormed(one, depth + 1));
}

function countMembers(value: unknown, depth: number): number {
  if (typeof value !== 'object' || value === null) return 0;
  if (depth >= DEPTH_MAX)
    throw new AbideError('malformed-json', `JSON may be at most ${DEPTH_MAX} levels deep.`);
  let members = 0;
  if (Array.isArray(value)) for (const one of value) members += countMembers(one, depth + 1);
  else {
    for (const one of Object.values(value)) members += 1 + countMembers(one, depth + 1);
  }
  return members;
}

/** Counts colons outside of strings, in text that is known to be JSON: one per member. */
function membersInText(text: string): number {
  let members = 0;
  for (let at = 0; at < text.length; at += 1) {
    const code = text.charCodeAt(at);
    if (code === 0x3a) members += 1;
    else if (code === 0x22) {
      at += 1;
      while (text.charCodeAt(at) !== 0x22) at += text.charCodeAt(at) === 0x5c ? 2 : 1;
    }
  }
  return members;
}

/** Only for text that has a repeated member: walks it once more with a stack of names. */
function repeatedMember(text: string): AbideError {
  const open: (Set<string> | undefined)[] = [];
  // By hand and not by one expression for a whole string, since backtracking over a long one costs a stack of its own.
  for (let at = 0; at < text.length; at += 1) {
    const character = text[at];
    if (character === '{') open.push(new Set());
    else if (character === '[') open.push(undefined);
    else if (character === '}' || character === ']') open.pop();
    else if (character === '"') {
      const begin = at;
      for (at += 1; text[at] !== '"'; at += 1) if (text[at] === '\\') at += 1;
      let after = at + 1;
      while (' \t\n\r'.includes(text[after] ?? '.')) after += 1;
      if (text[after] !== ':') continue;
      const name = JSON.parse(text.slice(begin, at + 1)) as string;
      const names = open.at(-1);
      if (names?.has(name) === true) {
        return new AbideError('malformed-json', `The member ${printable(name)} appears twice in one object.`);
      }
      names?.add(name);
    }
  }
  return new AbideError('malformed-json');
}

/**
 * Whether a member's name may be repeated to its sender, since somebody may have put an address there. Our names are words, so what
 * looks like a word is shown; anything with a long number or a sign is not.
 */
const isPrintable = (name: string): boolean =>
  /^[A-Za-z_][A-Za-z0-9_-]{0,63}$/.test(name) && !/\d{4}/.test(name);

const printable = (name: string): string => (isPrintable(name) ? `"${name}"` : '(not shown)');

/** A JSON pointer without the names that may be an address. */
export const pointerOf = (path: readonly PropertyKey[]): string =>
  path
    .map((part) =>
      typeof part === 'number' || isPrintable(String(part)) ? `/${String(part)}` : '/(not shown)',
    )
    .join('');

function toFaults(issues: readonly z.core.$ZodIssue[]): Fault[] {
  return issues.flatMap((issue): Fault[] => {
    if (issue.code === 'unrecognized_keys') {
      return issue.keys.map((key) => ({
        pointer: pointerOf([...issue.path, key]),
        detail: 'is not known here',
      }));
    }
    return [{ pointer: pointerOf(issue.path), detail: describe(issue) }];
  });
}

/** More faults than anybody mends by hand; a body of nothing but faults would be answered with five times its size. */
const FAULTS_MAX = 1_000;

const readable = (faults: readonly Fault[]): readonly Fault[] =>
  faults.length <= FAULTS_MAX
    ? faults
    : [
        ...faults.slice(0, FAULTS_MAX),
        { pointer: '', detail: `has ${faults.length - FAULTS_MAX} more faults` },
      ];

/**
 * In our words if zod's would repeat the value, e.g. an invalid enum's. A schema says the rest in words of its own; if one of v1's
 * does not, v1 answers zod's words for ever.
 */
function describe(issue: z.core.$ZodIssue): string {
  if (issue.input === null) return 'must not be null';
  if (issue.code === 'invalid_value') return `must be one of ${issue.values.map(String).join(', ')}`;
  if (issue.code === 'invalid_type') {
    return issue.input === undefined ? 'is missing' : `must be of type ${issue.expected}`;
  }
  return issue.message;
}

/**
 * Checks a value against a schema. Gives every fault at once, by JSON pointer, with those found elsewhere in the request. Throws
 * AbideError('invalid-value').
 */
export function parse<T extends z.ZodType>(
  schema: T,
  value: unknown,
  others: readonly Fault[] = [],
): z.output<T> {
  const result = schema.safeParse(value, { reportInput: true });
  if (result.success && others.length === 0) return result.data;
  const own = result.success ? [] : toFaults(result.error.issues);
  throw new AbideError('invalid-value', undefined, { errors: readable([...own, ...others]) });
}

/** A whole number from 1, in decimal digits; `Number` would take 0x10 and 1e1 too. */
export const queryInteger = (max: number) =>
  z
    .string()
    .refine((text) => /^\d{1,9}$/.test(text) && Number(text) >= 1 && Number(text) <= max, {
      message: `must be a whole number from 1 to ${max}`,
    })
    .transform(Number)
    .meta({ type: 'integer', minimum: 1, maximum: max });
