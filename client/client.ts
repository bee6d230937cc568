// `abide/client`: the API as functions. What goes over the wire is what they take and give; docs/client.md has the rest.
import { createCall } from './call.ts';
import type { Call, CallOptions, Limits, Token } from './call.ts';
import type { components as V1 } from './openapi-v1.ts';
import type { components as V2 } from './openapi-v2.ts';
import { AbideProblem } from './problem.ts';
import type { AnswerOf, Keyed, RequestOf, Waiting } from './route.ts';
import { delay } from './time.ts';

export { AbideProblem };
export type { Call, CallOptions, Token };
export type { ClientCode, Code, Fault } from './problem.ts';
export type { AnswerOf, RequestOf, Route } from './route.ts';

export type Identifier = V2['schemas']['Identifier'];
export type OptOutRequest = V2['schemas']['OptOutRequest'];
export type RecordedOptOut = V2['schemas']['RecordedOptOut'];
export type OptOut = V2['schemas']['OptOut'];
export type Propagation = V2['schemas']['Propagation'];
export type SubjectState = V2['schemas']['SubjectState'];
export type CheckItem = V2['schemas']['CheckItem'];
export type CheckedItem = V2['schemas']['CheckedItem'];
export type ChecksAnswer = V2['schemas']['ChecksAnswer'];
export type GrantRequest = V2['schemas']['GrantRequest'];
export type RecordedGrant = AnswerOf<'POST /v2/grants'>;
export type Grant = V2['schemas']['Grant'];
export type PropagationLag = V1['schemas']['PropagationLag'];
export type StoreLag = V1['schemas']['StoreLag'];
export type Gate = V1['schemas']['Gate'];
/** Which opt-outs; `limit` is how many a page has at most. */
export type OptOutFilter = Omit<NonNullable<RequestOf<'GET /v2/opt-outs'>['query']>, 'cursor'>;

export type AbideOptions = Partial<Limits> & {
  /** Where the API is; a path in front of its own is kept. */
  readonly url: string | URL;
  /** Instead of the platform's own. */
  readonly fetch?: typeof globalThis.fetch | undefined;
} & (
    | { /** An API key. */ readonly key: string; readonly token?: undefined }
    | { /** Gives an access token; asked before each try. */ readonly token: Token; readonly key?: undefined }
  );

export type Abide = {
  readonly optOuts: {
    /** Records what a person refuses: once, however often it has to be sent. */
    create(optOut: OptOutRequest, options?: Keyed & Waiting & CallOptions): Promise<RecordedOptOut>;
    get(id: string, options?: CallOptions): Promise<OptOut>;
    /** All of them, newest first; the next page is asked for when this one is used up. */
    list(filter?: OptOutFilter, options?: CallOptions): AsyncGenerator<OptOut, void, undefined>;
    /** How far it has come, store by store. */
    propagation(id: string, options?: Waiting & CallOptions): Promise<Propagation>;
    /**
     * Waits until every required store has confirmed. Throws `not-propagated` where that is not so in time, and `uncovered`
     * where there is no store to wait for.
     */
    waitUntilPropagated(id: string, options?: CallOptions): Promise<Propagation>;
  };
  readonly checks: {
    /**
     * May these be done? One answer an item, in order, however many there are. No answer means no: where one call of several
     * fails all of it throws.
     */
    ask(items: readonly CheckItem[], options?: CallOptions): Promise<ChecksAnswer>;
  };
  readonly subjects: {
    /** What is known of one identifier. */
    lookup(identifier: Identifier, options?: CallOptions): Promise<SubjectState>;
  };
  readonly grants: {
    /** Records the person's own later consent: the only way back. */
    create(grant: GrantRequest, options?: Keyed & Waiting & CallOptions): Promise<RecordedGrant>;
    get(id: string, options?: Waiting & CallOptions): Promise<Grant>;
  };
  /** How far every store is behind. */
  lag(options?: CallOptions): Promise<PropagationLag>;
  /** May a sender rely on a store's own copy now? No answer means hold. */
  gate(
    store: string,
    options?: CallOptions & {
      /** Hold as well where the oldest outstanding decision is older. */
      readonly maxAgeSeconds?: number | undefined;
    },
  ): Promise<Gate>;
  /** Any other call: `call('GET /v1/stores/{name}/quarantine', { path: { name: 'crm' } })`. */
  readonly call: Call;
};

const DEFAULTS: Limits = { timeoutMs: 30_000, tryTimeoutMs: 10_000, triesMax: 10 };

/** As many items, and somewhat fewer bytes, as one call of checks takes. */
const CHECKS_MAX = 1_000;
const CHECKS_BYTES_MAX = 900 * 1024;

/** What the API holds an answer for at most. */
const WAIT_SECONDS_MAX = 30;
/** What is left of the time for the answer to come, beside what it is held. */
const ANSWER_MS = 500;
/** An answer that should have been held and was not (the API stops) is not asked for again at once. */
const ROUND_MS_MIN = 250;

export function createAbide(options: AbideOptions): Abide {
  const { key, timeoutMs, tryTimeoutMs, triesMax } = options;
  const call = createCall({
    url: originAndPath(new URL(options.url)),
    token: key === undefined ? options.token : () => key,
    // Looked up when it is used: whoever watches or replaces the platform's own may come later.
    fetch: options.fetch ?? ((...asked) => globalThis.fetch(...asked)),
    limits: {
      timeoutMs: timeoutMs ?? DEFAULTS.timeoutMs,
      tryTimeoutMs: tryTimeoutMs ?? DEFAULTS.tryTimeoutMs,
      triesMax: triesMax ?? DEFAULTS.triesMax,
    },
  });
  return {
    optOuts: {
      create: (body, more) => call('POST /v2/opt-outs', { ...more, body }),
      get: (id, more) => call('GET /v2/opt-outs/{id}', { ...more, path: { id } }),
      list: (filter, more) => list(call, filter, more),
      propagation: (id, more) => call('GET /v2/opt-outs/{id}/propagation', { ...more, path: { id } }),
      waitUntilPropagated: (id, more) => waitUntilPropagated(call, id, more),
    },
    checks: { ask: (items, more) => ask(call, items, more) },
    subjects: {
      lookup: (identifier, more) => call('POST /v2/subjects/lookup', { ...more, body: { identifier } }),
    },
    grants: {
      create: (body, more) => call('POST /v2/grants', { ...more, body }),
      get: (id, more) => call('GET /v2/grants/{id}', { ...more, path: { id } }),
    },
    lag: (more) => call('GET /v1/propagation-lag', { ...more }),
    gate: (name, { maxAgeSeconds, ...more } = {}) =>
      call('GET /v1/stores/{name}/gate', {
        ...more,
        path: { name },
        query: maxAgeSeconds === undefined ? {} : { max_age_seconds: maxAgeSeconds },
      }),
    call,
  };
}

function originAndPath({ protocol, origin, pathname }: URL): string {
  // `localhost:8080` is one as well, of the scheme `localhost`.
  if (!/^https?:$/.test(protocol)) throw new TypeError('The URL of the API begins with http:// or https://.');
  return origin + pathname.replace(/\/+$/, '');
}

async function* list(
  call: Call,
  filter: OptOutFilter = {},
  options: CallOptions = {},
): AsyncGenerator<OptOut, void, undefined> {
  let query: OptOutFilter & { readonly cursor?: string } = filter;
  for (;;) {
    const page = await call('GET /v2/opt-outs', { ...options, query });
    yield* page.opt_outs;
    if (page.next_cursor === null) return;
    query = { ...filter, cursor: page.next_cursor };
  }
}

async function waitUntilPropagated(
  call: Call,
  id: string,
  { timeoutMs = DEFAULTS.timeoutMs, signal }: CallOptions = {},
): Promise<Propagation> {
  const until = performance.now() + timeoutMs;
  const isOver = (): boolean => performance.now() >= until;
  let last: Propagation | undefined;
  for (;;) {
    const began = performance.now();
    const leftMs = Math.max(1, until - began);
    const waitSeconds = Math.min(WAIT_SECONDS_MAX, Math.floor(Math.max(0, leftMs - ANSWER_MS) / 1_000));
    const asking = call('GET /v2/opt-outs/{id}/propagation', {
      path: { id },
      waitSeconds,
      timeoutMs: leftMs,
      signal,
    });
    const propagation = await asking.catch((error: unknown) => {
      // Seen pending once, that is what is known at the end.
      if (last !== undefined && isOver() && error instanceof AbideProblem && error.code === 'no-answer')
        return last;
      throw error;
    });
    last = propagation;
    if (propagation.state === 'complete') return propagation;
    if (propagation.state === 'uncovered') throw uncovered();
    const restMs = Math.min(ROUND_MS_MIN - (performance.now() - began), until - performance.now());
    if (restMs > 0) await delay(restMs, signal);
    if (isOver()) throw notPropagated(propagation);
  }
}

const uncovered = (): AbideProblem =>
  new AbideProblem('No required store covers what was asked.', { code: 'uncovered', retryable: false });
const notPropagated = ({ confirmed, required }: Propagation): AbideProblem =>
  new AbideProblem(`${confirmed} of ${required} required stores have confirmed in time.`, {
    code: 'not-propagated',
    retryable: true,
  });

async function ask(
  call: Call,
  items: readonly CheckItem[],
  options: CallOptions = {},
): Promise<ChecksAnswer> {
  const answered: CheckedItem[] = [];
  let asOf: string | undefined;
  for (const asked of split(items)) {
    const answer = await call('POST /v2/checks', { ...options, body: { items: asked } });
    const isOfThese =
      answer.items.length === asked.length &&
      asked.every(({ ref }, n) => {
        const one = answer.items[n];
        return one?.ref === ref && typeof one?.allowed === 'boolean';
      });
    if (!isOfThese)
      throw new AbideProblem('The answer is of other items than those asked for.', {
        code: 'unexpected-answer',
        retryable: false,
      });
    answered.push(...answer.items);
    // What is true of all of them is what was true of the first.
    asOf ??= answer.as_of;
  }
  return { object: 'checks', as_of: asOf!, items: answered };
}

/** In order, each as much as one call takes; one that is empty where there is nothing. */
function split(items: readonly CheckItem[]): CheckItem[][] {
  const encoder = new TextEncoder();
  const parts: CheckItem[][] = [[]];
  let bytes = 0;
  for (const item of items) {
    const size = encoder.encode(JSON.stringify(item)).byteLength + 1;
    const part = parts.at(-1)!;
    if (part.length > 0 && (part.length === CHECKS_MAX || bytes + size > CHECKS_BYTES_MAX)) {
      parts.push([item]);
      bytes = size;
    } else {
      part.push(item);
      bytes += size;
    }
  }
  return parts;
}
