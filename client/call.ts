// One call of the API: tried as often as it takes, never for longer than it may, and never again if twice would be two.
import { isGivenAgain, openFile } from './file.ts';
import type { FileBody, FileSource, Movement } from './file.ts';
import { nextTryMs } from './next-try.ts';
import { AbideProblem, parsed, problemOf } from './problem.ts';
import type { AnswerOf, Keyed, RequestOf, Route, Waiting } from './route.ts';
import { delay, within } from './time.ts';

export type Token = (asked: {
  /** The token that was refused just now: give another one. Undefined: give any good one. */
  readonly refused: string | undefined;
  readonly signal: AbortSignal;
}) => string | Promise<string>;

export type Limits = {
  /** For one call with all its tries. */
  readonly timeoutMs: number;
  /** For one try. */
  readonly tryTimeoutMs: number;
  readonly triesMax: number;
};

export type CallOptions = {
  /** Ends the call at once, with the signal's own reason. What was sent may be recorded all the same. */
  readonly signal?: AbortSignal | undefined;
  /** For each call with all its tries, instead of the client's. */
  readonly timeoutMs?: number | undefined;
};

export type Call = <R extends Route>(
  route: R,
  ...request: object extends RequestOf<R>
    ? [request?: RequestOf<R> & CallOptions]
    : [request: RequestOf<R> & CallOptions]
) => Promise<AnswerOf<R>>;

/** Calls that are recorded once under their Idempotency-Key, however often they are sent. */
export const KEYED: readonly string[] = [
  'POST /v1/opt-outs',
  'POST /v2/opt-outs',
  'POST /v2/grants',
] satisfies Route[];

/** Calls that only read: by POST, so that no address stands in a URL. */
const READING: readonly string[] = [
  'POST /v1/checks',
  'POST /v1/subjects/lookup',
  'POST /v2/checks',
  'POST /v2/subjects/lookup',
] satisfies Route[];

/** Calls after which what is so already stays so. */
const STAYING: readonly string[] = [
  'POST /v2/subjects/erasure',
  'POST /v2/imports/{id}/approval',
  'POST /v2/imports/{id}/cancellation',
] satisfies Route[];

/** Members that an answer of v1 always has. One of v2 says what it is: it has `object`. */
const MEMBERS: {
  readonly [R in Extract<Route, `${string} /v1/${string}`>]: readonly (keyof AnswerOf<R>)[];
} = {
  'POST /v1/opt-outs': ['object', 'id', 'outcome', 'recorded_at'],
  'GET /v1/opt-outs': ['object', 'opt_outs', 'next_cursor'],
  'GET /v1/opt-outs/{id}': ['object', 'id', 'outcome', 'recorded_at'],
  'GET /v1/opt-outs/{id}/propagation': ['id', 'state', 'stores'],
  'POST /v1/subjects/lookup': ['object', 'effective', 'opt_outs'],
  'POST /v1/checks': ['as_of', 'items'],
  'GET /v1/propagation-lag': ['as_of', 'status', 'uncovered', 'sources', 'stores'],
  'GET /v1/stores/{name}/gate': ['store', 'answer', 'as_of'],
  'GET /v1/stores/{name}/quarantine': ['object', 'quarantine', 'next_cursor'],
  'GET /v1/stores/{name}/quarantine/{seq}': ['store', 'seq', 'code'],
  'POST /v1/stores/{name}/quarantine/retry': ['retried'],
  'GET /v1/stores/{name}/reconciliation': ['store', 'passes'],
  'POST /v1/stores/{name}/reconciliation': ['store', 'id'],
  'GET /v1/stores/{name}/reconciliation/page': ['page'],
  'POST /v1/stores/{name}/reconciliation/page': ['taken'],
  'GET /v1/stores/{name}/listing': ['page'],
  'POST /v1/stores/{name}/listing': ['taken'],
  'POST /v1/acknowledgements': ['accepted', 'duplicate', 'rejected'],
  'GET /v1/stores/{name}/outstanding': ['generation', 'decisions', 'next'],
  'GET /v1/stores/{name}/canary': ['canary'],
  'GET /v1/stores/{name}/subjects/{subject_id}': ['subject_id', 'seq', 'version'],
  'GET /v1/transport-keys/{id}': ['id', 'key'],
};

/** Sends a file, and gives the answer with its status. The same file again is the same import. */
export type SendFile = (
  route: 'POST /v2/imports',
  request: CallOptions & {
    readonly file: FileSource;
    readonly type: string;
    readonly query: Readonly<Record<string, string | undefined>>;
  },
) => Promise<{ readonly status: number; readonly body: unknown }>;

/** A request of any route. */
type AnyRequest = CallOptions &
  Keyed &
  Waiting & {
    readonly path?: Readonly<Record<string, string | number>>;
    readonly query?: Readonly<Record<string, string | number | undefined>>;
    readonly body?: unknown;
  };

/** A call as it is tried: its body is opened for each try; undefined if it cannot be opened again. */
type Trying = {
  readonly to: string;
  readonly isRepeatable: boolean;
  readonly timeoutMs: number;
  readonly tryTimeoutMs: number;
  readonly signal: AbortSignal | undefined;
  /** The body of the request, if it is JSON. */
  readonly asked?: unknown;
  readonly open: (movement: Movement) => FileBody | Promise<FileBody> | undefined;
};

export function createCall({
  url,
  token,
  fetch,
  limits,
}: {
  readonly url: string;
  readonly token: Token;
  readonly fetch: typeof globalThis.fetch;
  readonly limits: Limits;
}): { readonly call: Call; readonly sendFile: SendFile } {
  async function perform(
    route: string,
    { to, isRepeatable, timeoutMs, tryTimeoutMs, signal, asked, open }: Trying,
  ): Promise<{ status: number; body: unknown }> {
    const send = async (
      bearer: string,
      trySignal: AbortSignal,
      movement: Movement,
    ): Promise<Answered | undefined> => {
      // The platform would refuse it as well, but quote it.
      if (!VISIBLE.test(bearer)) throw new TypeError('A key or token has visible ASCII characters only.');
      const opened = await open(movement);
      if (opened === undefined) return undefined;
      const headers = new Headers(opened.init.headers);
      headers.set('authorization', `Bearer ${bearer}`);
      try {
        trySignal.throwIfAborted();
        const response = await fetch(to, { ...opened.init, headers, signal: trySignal });
        return { response, text: await response.text() };
      } catch (cause) {
        const failure = opened.failure();
        if (failure !== undefined) throw failure.error;
        trySignal.throwIfAborted();
        throw noAnswer(`Nobody answers ${route} at ${url}.`, cause);
      } finally {
        opened.end();
      }
    };
    const tryOnce = async (trySignal: AbortSignal, movement: Movement): Promise<Answered> => {
      const bearer = await token({ refused: undefined, signal: trySignal });
      const first = (await send(bearer, trySignal, movement))!;
      if (first.response.status !== 401) return first;
      // A token may end before its time. What is refused twice is refused.
      const another = await token({ refused: bearer, signal: trySignal });
      return (another === bearer ? undefined : await send(another, trySignal, movement)) ?? first;
    };

    let until = performance.now() + timeoutMs;
    for (let tries = 1; ; tries += 1) {
      const tryMs = Math.min(tryTimeoutMs, until - performance.now());
      try {
        const tooLate = (ms: number): AbideProblem =>
          noAnswer(`No answer to ${route} within ${Math.round(ms)} ms.`);
        const answered = await within(tryMs, { signal, tooLate }, (trySignal, clock) =>
          tryOnce(trySignal, {
            reads: () => clock.stop(),
            goes: (expectedMs = 0) => {
              until = performance.now() + timeoutMs + expectedMs;
              clock.restart(Math.min(tryTimeoutMs, timeoutMs) + expectedMs);
            },
          }),
        );
        return { status: answered.response.status, body: bodyOf(route, asked, answered) };
      } catch (error) {
        if (!(error instanceof AbideProblem)) throw error;
        const leftMs = until - performance.now();
        const so = { isRepeatable, tries, triesMax: limits.triesMax, leftMs, chance: Math.random() };
        const waitMs = nextTryMs(error, so);
        if (waitMs === undefined) throw error;
        await delay(waitMs, signal);
      }
    }
  }

  const call = async (route: string, request: AnyRequest = {}): Promise<unknown> => {
    const { signal, waitSeconds = 0 } = request;
    const isRepeatable =
      [KEYED, READING, STAYING].some((routes) => routes.includes(route)) || route.startsWith('GET ');
    // Made once: every try is the same request, under the same key.
    const { to, init } = toFetch(url, route, request);
    const made = { init, failure: () => undefined, end: () => undefined };
    const { body } = await perform(route, {
      to,
      isRepeatable,
      timeoutMs: request.timeoutMs ?? limits.timeoutMs + waitSeconds * 1_000,
      tryTimeoutMs: limits.tryTimeoutMs + waitSeconds * 1_000,
      signal,
      asked: request.body,
      open: () => made,
    });
    return body;
  };

  const sendFile: SendFile = async (route, { file, type, query, signal, timeoutMs }) => {
    const { to, init } = toFetch(url, route, { query });
    const isRepeatable = isGivenAgain(file);
    let isGiven = false;
    return await perform(route, {
      to,
      isRepeatable,
      timeoutMs: timeoutMs ?? limits.timeoutMs,
      tryTimeoutMs: limits.tryTimeoutMs,
      signal,
      open: (movement) => {
        if (isGiven && !isRepeatable) return undefined;
        isGiven = true;
        return openFile(file, movement).then((opened) => ({
          ...opened,
          init: { ...init, ...opened.init, headers: { ...init.headers, 'content-type': type } },
        }));
      },
    });
  };
  return { call: call as Call, sendFile };
}

const VISIBLE = /^[\x21-\x7e]+$/;

type Answered = { readonly response: Response; readonly text: string };

const noAnswer = (message: string, cause?: unknown): AbideProblem =>
  new AbideProblem(message, { code: 'no-answer', retryable: true, cause });

/** The body of a good answer, or of a lag that a pager is to hear of; throws what any other answer says. */
function bodyOf(route: string, asked: unknown, { response, text }: Answered): unknown {
  const isAnswer = response.ok || (response.status === 503 && route === 'GET /v1/propagation-lag');
  const body = isAnswer ? parsed(text) : undefined;
  if (!isOurs(route, body) || (route.endsWith('/checks') && itemsOf(body) !== itemsOf(asked)))
    throw problemOf(response, text);
  return body;
}

/** A gateway that says `{"status":"ok"}` to everybody has recorded no opt-out, and knows no store's lag. */
function isOurs(route: string, body: unknown): boolean {
  if (typeof body !== 'object' || body === null) return false;
  const members = (MEMBERS as Readonly<Record<string, readonly string[]>>)[route];
  if (members !== undefined) return members.every((name) => Object.hasOwn(body, name));
  const { object } = body as { object?: unknown };
  return object === 'list' ? Object.values(body).some(Array.isArray) : typeof object === 'string';
}

/** How many: a check without an answer is found in no list of answers. */
const itemsOf = (body: unknown): number | undefined =>
  (body as { readonly items?: readonly unknown[] } | undefined)?.items?.length;

function toFetch(
  url: string,
  route: string,
  request: AnyRequest,
): { to: string; init: RequestInit & { headers: Record<string, string> } } {
  const [method, template] = route.split(' ') as [string, string];
  const query = new URLSearchParams(
    Object.entries(request.query ?? {}).flatMap(([name, value]) =>
      value === undefined ? [] : [[name, String(value)]],
    ),
  ).toString();
  const headers: Record<string, string> = { accept: 'application/json' };
  if (request.body !== undefined) headers['content-type'] = 'application/json';
  if (request.waitSeconds !== undefined) headers['prefer'] = `wait=${request.waitSeconds}`;
  if (KEYED.includes(route)) headers['idempotency-key'] = request.idempotencyKey ?? crypto.randomUUID();
  return {
    to: url + filled(template, request.path ?? {}) + (query === '' ? '' : `?${query}`),
    init: {
      method,
      headers,
      body: request.body === undefined ? null : JSON.stringify(request.body),
      // A server that redirects is not Abide: neither key nor addresses go on to somewhere else.
      redirect: 'manual',
    },
  };
}

/** The path with its values. An empty value, or one of dots, would ask for another path than the one that is meant. */
const filled = (template: string, values: Readonly<Record<string, string | number>>): string =>
  template.replaceAll(/\{(\w+)\}/g, (_, name: string) => {
    const value = String(values[name] ?? '');
    if (/^\.{0,2}$/.test(value)) throw new TypeError(`${template} needs ${name}.`);
    return encodeURIComponent(value);
  });
