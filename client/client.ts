// `abide/client`: the API as functions. They take and give what goes over the wire; docs/client.md has the rest.
import { createCall } from './call.ts';
import type { Call, CallOptions, Limits, SendFile, Token } from './call.ts';
import type { FileSource } from './file.ts';
import type { components as V1 } from './openapi-v1.ts';
import type { components as V2 } from './openapi-v2.ts';
import { AbideProblem } from './problem.ts';
import type { AnswerOf, Keyed, RequestOf, Waiting } from './route.ts';
import { delay } from './time.ts';

export { AbideProblem };
export type { Call, CallOptions, Token };
export type { FilePieces, FileSource } from './file.ts';
export type { ClientCode, Code, Fault } from './problem.ts';
export type { AnswerOf, RequestOf, Route } from './route.ts';

export type Identifier = V2['schemas']['Identifier'];
export type OptOutRequest = V2['schemas']['OptOutRequest'];
export type RecordedOptOut = V2['schemas']['RecordedOptOut'];
export type OptOut = V2['schemas']['OptOut'];
export type Propagation = V2['schemas']['Propagation'];
export type Receipt = V2['schemas']['Receipt'];
export type SubjectState = V2['schemas']['SubjectState'];
export type Erasure = V2['schemas']['Erasure'];
export type CheckItem = V2['schemas']['CheckItem'];
export type CheckedItem = V2['schemas']['CheckedItem'];
export type ChecksAnswer = V2['schemas']['ChecksAnswer'];
export type GrantRequest = V2['schemas']['GrantRequest'];
export type RecordedGrant = AnswerOf<'POST /v2/grants'>;
export type Grant = V2['schemas']['Grant'];
export type PropagationLag = V1['schemas']['PropagationLag'];
export type StoreLag = V1['schemas']['StoreLag'];
export type Gate = V1['schemas']['Gate'];
export type Import = V2['schemas']['Import'];
export type RowError = V2['schemas']['RowError'];
/** `sent_before`: the same file with the same parameters is that import. */
export type SentImport = Import & { readonly outcome: 'received' | 'sent_before' };
/** Which opt-outs; `limit` is how many a page has at most. */
export type OptOutFilter = Omit<NonNullable<RequestOf<'GET /v2/opt-outs'>['query']>, 'cursor'>;
/** Which imports; `limit` is how many a page has at most. */
export type ImportFilter = Omit<NonNullable<RequestOf<'GET /v2/imports'>['query']>, 'cursor'>;

/** How a file is read. */
export type ImportParameters = {
  readonly format: Import['format'];
  /** Counts what it would do, and records nothing. */
  readonly dryRun?: boolean | undefined;
  /** For rows without scopes of their own. */
  readonly scopes?: readonly string[] | undefined;
  /** For rows without a reason of their own; absent: `person_request`. */
  readonly reason?: Import['reason'] | undefined;
  /** For rows without a date of their own, RFC 3339 with an offset; absent: when the file was received. */
  readonly effectiveAt?: string | undefined;
};

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
    /** All of them, newest first; the next page is asked for when one is used up. */
    list(filter?: OptOutFilter, options?: CallOptions): AsyncGenerator<OptOut, void, undefined>;
    /** How far it has come, store by store. */
    propagation(id: string, options?: Waiting & CallOptions): Promise<Propagation>;
    /**
     * Waits until every required store has confirmed. Throws `not-propagated` if that does not happen in time, and `uncovered` if
     * there is no store to wait for.
     */
    waitUntilPropagated(id: string, options?: CallOptions): Promise<Propagation>;
    /** A signed statement of it and of how far it has come, which anybody can check. */
    receipt(id: string, options?: Waiting & CallOptions): Promise<Receipt>;
  };
  readonly checks: {
    /**
     * May these be done? One answer per item, in order, however many there are. No answer means no: if one of several calls fails,
     * all of it throws.
     */
    ask(items: readonly CheckItem[], options?: CallOptions): Promise<ChecksAnswer>;
  };
  readonly subjects: {
    /** What is known of one identifier. */
    lookup(identifier: Identifier, options?: CallOptions): Promise<SubjectState>;
    /**
     * Erases a person's address for good; they stay suppressed. Throws `erasure-too-early` as long as a store does not hold their
     * opt-out, which is asked again until `timeoutMs` is over.
     */
    erase(identifiers: readonly Identifier[], options?: CallOptions): Promise<Erasure>;
  };
  readonly grants: {
    /** Records the person's own later consent: the only way back. */
    create(grant: GrantRequest, options?: Keyed & Waiting & CallOptions): Promise<RecordedGrant>;
    get(id: string, options?: Waiting & CallOptions): Promise<Grant>;
  };
  readonly imports: {
    /**
     * Sends a file of opt-outs, which is then recorded as a job. It takes as long as it keeps going: both time limits count
     * from the last piece that went. The same file again is the same import.
     */
    create(file: FileSource, parameters: ImportParameters & CallOptions): Promise<SentImport>;
    get(id: string, options?: CallOptions): Promise<Import>;
    /** All of them, newest first; the next page is asked for when one is used up. */
    list(filter?: ImportFilter, options?: CallOptions): AsyncGenerator<Import, void, undefined>;
    /** Rows that were not taken, in order; `limit` is how many a page has at most. */
    errors(
      id: string,
      options?: CallOptions & { readonly limit?: number | undefined },
    ): AsyncGenerator<RowError, void, undefined>;
    /** Lets an import begin that another key sent. */
    approve(id: string, options?: CallOptions): Promise<Import>;
    /** Ends an import that has not begun. */
    cancel(id: string, options?: CallOptions): Promise<Import>;
    /**
     * Waits until all of it is recorded, for as long as it takes if no `timeoutMs` is given. Throws `awaiting-approval`,
     * `import-failed` or `import-cancelled` if it is not going to be, and `not-done` if it is not in time.
     */
    waitUntilDone(
      id: string,
      options?: CallOptions & { /** Told at each look. */ readonly onProgress?: (now: Import) => void },
    ): Promise<Import>;
  };
  /** How far every store is behind. */
  lag(options?: CallOptions): Promise<PropagationLag>;
  /** May a sender rely on a store's own copy now? No answer means hold. */
  gate(
    store: string,
    options?: CallOptions & {
      /** Hold as well if the oldest outstanding decision is older than this. */
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

/** The longest that the API holds an answer. */
const WAIT_SECONDS_MAX = 30;
/** Time that is left for the answer to come, besides how long it is held. */
const ANSWER_MS = 500;
/** An answer that should have been held and was not (the API stops) is not asked for again at once. */
const ROUND_MS_MIN = 250;

/** A timer counts from when its turn of the loop began, and may fire early: an answer missing this close to the end is late. */
const EARLY_MS_MAX = 20;

/** How often an import is looked at: one of a few rows is done at once, a long one runs for minutes. */
const LOOK_MS_MIN = 100;
const LOOK_MS_MAX = 1_000;

const FILE_TYPES: Readonly<Record<Import['format'], string>> = {
  csv: 'text/csv',
  ndjson: 'application/x-ndjson',
};

/** Throws a TypeError if `url` is not the URL of an API, or if there is neither a key nor a token. */
export function createAbide(options: AbideOptions): Abide {
  const { key, token, timeoutMs, tryTimeoutMs, triesMax } = options;
  const url = originAndPath(new URL(options.url));
  // Not every program is compiled, and an environment may lack the key.
  const give = key === undefined ? token : () => key;
  if (give === undefined) throw new TypeError('Give a key or a token.');
  const { call, sendFile } = createCall({
    url,
    token: give,
    // Looked up when it is used: code that watches or replaces the platform's own may come later.
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
      list: (filter, more) =>
        pages(
          (cursor) => call('GET /v2/opt-outs', { ...more, query: { ...filter, ...cursor } }),
          ({ opt_outs }) => opt_outs,
        ),
      propagation: (id, more) => call('GET /v2/opt-outs/{id}/propagation', { ...more, path: { id } }),
      waitUntilPropagated: (id, more) => waitUntilPropagated(call, id, more),
      receipt: (id, more) => call('GET /v2/opt-outs/{id}/receipt', { ...more, path: { id } }),
    },
    checks: { ask: (items, more) => ask(call, items, more) },
    subjects: {
      lookup: (identifier, more) => call('POST /v2/subjects/lookup', { ...more, body: { identifier } }),
      erase: (identifiers, more) =>
        call('POST /v2/subjects/erasure', { ...more, body: { identifiers: [...identifiers] } }),
    },
    grants: {
      create: (body, more) => call('POST /v2/grants', { ...more, body }),
      get: (id, more) => call('GET /v2/grants/{id}', { ...more, path: { id } }),
    },
    imports: {
      create: (file, more) => createImport(sendFile, file, more),
      get: (id, more) => call('GET /v2/imports/{id}', { ...more, path: { id } }),
      list: (filter, more) =>
        pages(
          (cursor) => call('GET /v2/imports', { ...more, query: { ...filter, ...cursor } }),
          ({ imports }) => imports,
        ),
      errors: (id, { limit, ...more } = {}) =>
        pages(
          (cursor) =>
            call('GET /v2/imports/{id}/errors', {
              ...more,
              path: { id },
              query: { ...(limit === undefined ? {} : { limit }), ...cursor },
            }),
          ({ errors }) => errors,
        ),
      approve: (id, more) => call('POST /v2/imports/{id}/approval', { ...more, path: { id } }),
      cancel: (id, more) => call('POST /v2/imports/{id}/cancellation', { ...more, path: { id } }),
      waitUntilDone: (id, more) => waitUntilDone(call, id, more),
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
  // `localhost:8080` is a URL as well, of the scheme `localhost`.
  if (!/^https?:$/.test(protocol)) throw new TypeError('The URL of the API begins with http:// or https://.');
  return origin + pathname.replace(/\/+$/, '');
}

/** Page after page; the next one is asked for when one is used up. */
async function* pages<Page extends { readonly next_cursor: string | null }, One>(
  ask: (cursor: { readonly cursor?: string }) => Promise<Page>,
  of: (page: Page) => readonly One[],
): AsyncGenerator<One, void, undefined> {
  let page = await ask({});
  for (;;) {
    yield* of(page);
    if (page.next_cursor === null) return;
    page = await ask({ cursor: page.next_cursor });
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
      // If it was seen pending once, that is what is known at the end.
      if (last !== undefined && isTooLate(error, until)) return last;
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

const isTooLate = (error: unknown, until: number): boolean =>
  error instanceof AbideProblem && error.code === 'no-answer' && performance.now() >= until - EARLY_MS_MAX;

const uncovered = (): AbideProblem =>
  new AbideProblem('No required store covers what was asked.', { code: 'uncovered', retryable: false });
const notPropagated = ({ confirmed, required }: Propagation): AbideProblem =>
  new AbideProblem(`${confirmed} of ${required} required stores have confirmed in time.`, {
    code: 'not-propagated',
    retryable: true,
  });

async function createImport(
  sendFile: SendFile,
  file: FileSource,
  { format, dryRun, scopes, reason, effectiveAt, ...more }: ImportParameters & CallOptions,
): Promise<SentImport> {
  const { status, body } = await sendFile('POST /v2/imports', {
    ...more,
    file,
    type: FILE_TYPES[format],
    query: {
      dry_run: dryRun === true ? 'true' : undefined,
      scopes: scopes?.join(' '),
      reason,
      effective_at: effectiveAt,
    },
  });
  return { ...(body as Import), outcome: status === 202 ? 'received' : 'sent_before' };
}

async function waitUntilDone(
  call: Call,
  id: string,
  {
    timeoutMs = Infinity,
    signal,
    onProgress,
  }: CallOptions & { readonly onProgress?: (now: Import) => void } = {},
): Promise<Import> {
  const until = performance.now() + timeoutMs;
  const isOver = (): boolean => performance.now() >= until;
  let last: Import | undefined;
  for (let pauseMs = LOOK_MS_MIN; ; pauseMs = Math.min(LOOK_MS_MAX, pauseMs * 1.5)) {
    const leftMs = Math.max(1, until - performance.now());
    const looking = call('GET /v2/imports/{id}', {
      path: { id },
      signal,
      ...(leftMs === Infinity ? {} : { timeoutMs: leftMs }),
    });
    const now = await looking.catch((error: unknown) => {
      // If it was seen under way once, that is what is known at the end.
      if (last !== undefined && isTooLate(error, until)) return last;
      throw error;
    });
    last = now;
    onProgress?.(now);
    if (now.state === 'done') return now;
    if (now.state !== 'pending' && now.state !== 'running') throw notGoingOn(now);
    if (isOver()) throw notDone(now);
    await delay(Math.max(0, Math.min(pauseMs, until - performance.now())), signal);
  }
}

const notDone = ({ rows }: Import): AbideProblem =>
  new AbideProblem(`${rows.done} of ${rows.total} rows are recorded in time.`, {
    code: 'not-done',
    retryable: true,
  });

const notGoingOn = ({ state, rows, failure }: Import): AbideProblem => {
  if (state === 'awaiting_approval')
    return new AbideProblem(`${rows.total} rows wait for the approval of another key.`, {
      code: 'awaiting-approval',
      retryable: true,
    });
  return state === 'cancelled'
    ? new AbideProblem('The import was cancelled.', { code: 'import-cancelled', retryable: false })
    : new AbideProblem(
        `The import failed after ${rows.done} of ${rows.total} rows: ${failure ?? 'it is not known why'}.`,
        { code: 'import-failed', retryable: false },
      );
};

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
      throw new AbideProblem('The answer is about other items than those asked for.', {
        code: 'unexpected-answer',
        retryable: false,
      });
    answered.push(...answer.items);
    // What is true of all of them is what was true of the first.
    asOf ??= answer.as_of;
  }
  return { object: 'checks', as_of: asOf!, items: answered };
}

/** In order, each part as much as one call takes; one empty part if there is nothing. */
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
