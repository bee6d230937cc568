// A connector of the user's own. What it declares and what it answers is checked here, since in JavaScript nobody else does:
// anything of another shape is reported in words that name no value, instead of failing further on or counting as what it is not.
import { z } from 'zod';
import { boundedText } from '../api/bounded-text.ts';
import type { ApplyOutcome, Connector, Held, Store } from '../connectors/contract/connector.ts';
import { HeldScopes } from '../connectors/contract/held-scopes.ts';
import { isSameKey } from '../consumers/list-own.ts';
import { AbideError } from '../suppression/errors.ts';
import { SUBJECT_KINDS } from '../suppression/subject-kind.ts';

const aFunction = z.custom((value) => typeof value === 'function', 'is not a function');
const aSchema = z.custom(
  (value) => typeof (value as { safeParseAsync?: unknown } | null | undefined)?.safeParseAsync === 'function',
  'is not a zod schema',
);
const aCount = z.number().int().min(1);

const Declaration = z.object({
  options: aSchema,
  scopeValue: aSchema.optional(),
  accepts: z.array(z.enum(SUBJECT_KINDS)).min(1),
  topics: z.boolean(),
  versions: z.enum(['stored', 'none']),
  remembersUnknown: z.boolean(),
  evidence: z.enum(['read_back', 'applied', 'relay']),
  limits: z.object({ batch: aCount, perSecond: z.number().positive().optional(), concurrent: aCount }),
  settles: z.object({ afterMs: z.number().min(0), withinMs: z.number().min(0) }).optional(),
  target: aFunction,
  place: aFunction.optional(),
  open: aFunction,
});

const KINDS = ['applied', 'already_newer', 'accepted', 'absent', 'refused'] as const;
const Outcome = z.object({ kind: z.enum(KINDS) });
const HeldState = z.object({ version: z.number().int().nullish(), suppressed: HeldScopes });
const Entry = z.object({ kind: z.enum(SUBJECT_KINDS), key: z.string(), held: HeldState });

/** Every form that an answer of incarnation() may have: what the API takes. */
const Incarnation = boundedText(200, '').min(1).nullish();

const STORE = ['apply', 'readBack', Symbol.asyncDispose] as const;

const wrong = (says: string): AbideError => new AbideError('STORE_FAILED', `The connector's ${says}.`);

/** There must be an answer for each that was asked for, each as it should be. */
function expectEach(what: string, answers: unknown, shape: z.ZodType, count?: number): void {
  if (!Array.isArray(answers)) throw wrong(`${what} does not give a list`);
  if (count !== undefined && answers.length !== count)
    throw wrong(`${what} gives ${answers.length} answers for ${count} item(s)`);
  const n = answers.findIndex((answer) => !shape.safeParse(answer).success);
  if (n === -1) return;
  const issue = shape.safeParse(answers[n]).error!.issues[0]!;
  throw wrong(`${what} gives another shape: [${[n, ...issue.path].join('].[')}] ${issue.message}`);
}

/** Null means the same as undefined. */
const toHeld = (held: Held | null | undefined): Held | undefined =>
  held ? { version: held.version ?? undefined, suppressed: held.suppressed } : undefined;

/** The connector with its answers checked. Throws CONFIG_INVALID, naming all that its declaration lacks. */
export function lookedAt(name: string, connector: Connector): Connector {
  const declared = Declaration.safeParse(connector, {
    error: ({ input }) => (input === undefined ? 'is missing' : undefined),
  });
  if (!declared.success) {
    const faults = declared.error.issues.map(({ path, message }) => `${path.join('.')} ${message}`);
    throw new AbideError('CONFIG_INVALID', `${name} does not declare a connector: ${faults.join('; ')}.`);
  }
  const textsOf = (what: 'target' | 'place', options: unknown): readonly string[] => {
    let parts: unknown;
    try {
      parts = connector[what]!(options);
    } catch (cause) {
      throw new AbideError('CONFIG_INVALID', `${name}: ${what}() fails on the stanza's options.`, { cause });
    }
    const texts = z.array(z.string()).safeParse(parts);
    if (texts.success) return texts.data;
    throw new AbideError('CONFIG_INVALID', `${name}: ${what}() does not give a list of texts.`);
  };
  return {
    ...connector,
    target: (options) => textsOf('target', options),
    ...(connector.place && { place: (options) => textsOf('place', options) }),
    async open(options, context) {
      const store = (await connector.open(options, context)) as Store | undefined;
      if (!STORE.every((part) => typeof store?.[part] === 'function'))
        throw wrong('open() does not give a store with apply(), readBack() and [Symbol.asyncDispose]()');
      return lookedAtStore(store!);
    },
  };
}

function lookedAtStore(store: Store): Store {
  return {
    async apply(batch, signal) {
      const outcomes: readonly ApplyOutcome[] = await store.apply(batch, signal);
      expectEach('apply()', outcomes, Outcome, batch.length);
      return outcomes;
    },
    async readBack(keys, signal) {
      const held: readonly (Held | null | undefined)[] = await store.readBack(keys, signal);
      expectEach('readBack()', held, HeldState.nullish(), keys.length);
      return held.map(toHeld);
    },
    ...(store.incarnation && {
      async incarnation(signal) {
        const answer = Incarnation.safeParse(await store.incarnation!(signal));
        if (answer.success) return answer.data;
        throw wrong(`incarnation() gives another shape: ${answer.error.issues[0]!.message}`);
      },
    }),
    ...(store.check && { check: (items, signal) => store.check!(items, signal) }),
    ...(store.scan && {
      async scan(after, signal) {
        const page = await store.scan!(after, signal);
        expectEach('scan()', page, Entry);
        if (after !== undefined && isSameKey(page.at(-1), after))
          throw wrong('scan() gives again the entry that it should go on after');
        return page.map((entry) => ({ ...entry, held: toHeld(entry.held)! }));
      },
    }),
    [Symbol.asyncDispose]: () => store[Symbol.asyncDispose](),
  };
}
