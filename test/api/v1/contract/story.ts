// What a recording says. Values that differ from run to run stand in it as placeholders: `<id:first>`, `<instant:recorded_at.2>`,
// `<seq:one>`, `<text:cursor.1>`. One name is one value throughout a story, and two names are two values (two instants may
// coincide), so that a reference is seen to refer to its target. `<number>` is any number; `<request_id>` is that of the answer's
// own header.
import type { Dispatcher } from 'undici';
import type { StoreRegistration } from '../../../../ledger/stores.ts';

export type Story = {
  /** What it is about. */
  readonly story: string;
  readonly default_region?: string;
  readonly stores: readonly (Partial<
    Pick<StoreRegistration, 'accepts' | 'scopes' | 'required' | 'ownScopes'>
  > & {
    readonly name: string;
  })[];
  readonly keys: Readonly<Record<string, StoryKey>>;
  readonly steps: readonly Step[];
};

export type StoryKey = {
  readonly client: string;
  readonly scopes: readonly string[];
  readonly store?: string;
  readonly expires_at?: string;
  readonly revoked?: true;
};

export type Step = Exchange | Act;

/** Something that v1 has no call for. */
export type Act = { readonly grant: { readonly subject: string; readonly scopes: readonly string[] } };

export type Exchange = {
  readonly what: string;
  readonly request: StoryRequest;
  /** Until it is recorded: what in the answer gets a name of its own, by JSON pointer. */
  readonly names?: Readonly<Record<string, string>>;
  readonly answer?: StoryAnswer;
};

/**
 * In each of its texts `<ahead:90>` is the instant 90 seconds from now, and `<times:1000:a>` a thousand times `a`; names that are
 * known by then are replaced by their values.
 */
export type StoryRequest = {
  readonly method: Dispatcher.HttpMethod;
  readonly path: string;
  /** One of the story's keys. */
  readonly key?: string;
  readonly headers?: Readonly<Record<string, string>>;
  /** As JSON. */
  readonly body?: unknown;
  /** Sent as it is, if it is not JSON or must not be made anew. */
  readonly text?: string;
};

export type StoryAnswer = {
  readonly status: number;
  readonly headers: Readonly<Record<string, string>>;
  /** What the JSON says, its members in their order; for an event stream, its first events. */
  readonly body?: unknown;
};

const PLACEHOLDER = /<(number|request_id|(id|instant|seq|text):[a-z0-9_.]+)>/g;

const FORMS: Readonly<Record<string, string>> = {
  id: '[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}',
  instant: '\\d{4}-\\d{2}-\\d{2}T\\d{2}:\\d{2}:\\d{2}\\.\\d{3}Z',
  seq: '[1-9]\\d*',
  text: '[A-Za-z0-9_-]+',
  number: '-?\\d+(?:\\.\\d+)?(?:e-?\\d+)?',
};

const kindOf = (name: string): string => name.split(':', 1)[0]!;

/** What the names of a story mean in one run of it. */
export class Meanings {
  readonly #values = new Map<string, string>();

  /** False if the name means something else already, or another name means this value. */
  bind(name: string, value: string): boolean {
    const known = this.#values.get(name);
    if (known !== undefined) return known === value;
    const kind = kindOf(name);
    // Two things may happen within a millisecond, and nothing refers to anything by an instant.
    if (kind !== 'instant')
      for (const [other, its] of this.#values) if (kindOf(other) === kind && its === value) return false;
    this.#values.set(name, value);
    return true;
  }

  has(name: string): boolean {
    return this.#values.has(name);
  }

  namesOf(kind: string, value: string): string[] {
    return [...this.#values]
      .filter(([name, its]) => kindOf(name) === kind && its === value)
      .map(([name]) => name);
  }

  /** A request's text with its names replaced by what they mean. */
  fill(text: string): string {
    return text
      .replaceAll(/<ahead:(\d+)>/g, (_, seconds) =>
        new Date(Date.now() + Number(seconds) * 1000).toISOString(),
      )
      .replaceAll(/<times:(\d+):([^>]+)>/g, (_, times, what: string) => what.repeat(Number(times)))
      .replaceAll(PLACEHOLDER, (placeholder, name: string) => {
        const value = this.#values.get(name);
        if (value === undefined) throw new Error(`nothing is called ${placeholder} yet`);
        return value;
      });
  }

  /** The same within JSON: `"<seq:one>"` alone in its text is the number. */
  fillAll(value: unknown): unknown {
    if (typeof value === 'string') {
      const filled = this.fill(value);
      return /^<seq:[a-z0-9_.]+>$/.test(value) ? Number(filled) : filled;
    }
    if (Array.isArray(value)) return value.map((one) => this.fillAll(one));
    if (typeof value !== 'object' || value === null) return value;
    return Object.fromEntries(Object.entries(value).map(([name, one]) => [name, this.fillAll(one)]));
  }

  /**
   * What was answered, in the words of the recording: wherever it is what the recording has there, the recording's text, and
   * everywhere else the answer's own. So the result equals the recording if and only if the answer does.
   */
  inWordsOf(recorded: unknown, answered: unknown, requestId: string): unknown {
    if (typeof recorded === 'string')
      return this.#isMeant(recorded, answered, requestId) ? recorded : answered;
    if (Array.isArray(recorded) && Array.isArray(answered))
      return answered.map((one, n) => this.inWordsOf(recorded[n], one, requestId));
    if (!isRecord(recorded) || !isRecord(answered)) return answered;
    return Object.fromEntries(
      Object.entries(answered).map(([name, one]) => [
        name,
        this.inWordsOf(Object.hasOwn(recorded, name) ? recorded[name] : undefined, one, requestId),
      ]),
    );
  }

  #isMeant(recorded: string, answered: unknown, requestId: string): boolean {
    if (typeof answered === 'number' && !/^<(?:number|seq:[a-z0-9_.]+)>$/.test(recorded)) return false;
    if (typeof answered !== 'number' && typeof answered !== 'string') return false;
    const names: string[] = [];
    let pattern = '';
    let at = 0;
    for (const found of recorded.matchAll(PLACEHOLDER)) {
      const name = found[1]!;
      pattern += escape(recorded.slice(at, found.index));
      pattern += name === 'request_id' ? escape(requestId) : `(${FORMS[kindOf(name)]!})`;
      if (name !== 'request_id') names.push(name);
      at = found.index + found[0].length;
    }
    const matched = new RegExp(`^${pattern}${escape(recorded.slice(at))}$`).exec(String(answered));
    if (matched === null) return false;
    return names.every((name, n) => name === 'number' || this.bind(name, matched[n + 1]!));
  }
}

const escape = (text: string): string => text.replaceAll(/[.*+?^${}()|[\]\\/]/g, '\\$&');

const isRecord = (value: unknown): value is Record<string, unknown> =>
  typeof value === 'object' && value !== null && !Array.isArray(value);
