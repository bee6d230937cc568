import type { components } from './openapi-v2.ts';

type Problem = components['schemas']['Problem'];

/** One fault of a request, by JSON pointer. */
export type Fault = components['schemas']['Fault'];

/** What the client itself says, besides the codes of the API. docs/client.md lists the same; a test compares. */
export const CLIENT_CODES = [
  /** Nobody answered, or not in time: whether anything was done is not known. */
  'no-answer',
  /** What answered does not speak as Abide does: another server, a proxy, or an answer for other items. */
  'unexpected-answer',
  /** The time was over before every required store had confirmed. */
  'not-propagated',
  /** No required store covers what was asked: there is nothing to wait for. */
  'uncovered',
  /** The time was over before the import had come to its end. */
  'not-done',
  /** Another key must approve the import: nothing goes on until then. */
  'awaiting-approval',
  /** The import failed. */
  'import-failed',
  /** The import was cancelled. */
  'import-cancelled',
] as const;
export type ClientCode = (typeof CLIENT_CODES)[number];

/** What to decide by. More may come: take an unknown one by its status. */
export type Code = Problem['code'] | ClientCode | (string & {});

/** Everything that goes wrong, except what the caller did: its own abort is thrown as the reason that it gave. */
export class AbideProblem extends Error {
  override readonly name = 'AbideProblem';
  readonly code: Code;
  /** Of the answer; undefined if there was none. */
  readonly status: number | undefined;
  /** Quote it when you report something; undefined if nobody of ours answered. */
  readonly requestId: string | undefined;
  /** Every fault of the request; never with a value in it. */
  readonly errors: readonly Fault[];
  /** Whether the same call, unchanged, may succeed later. */
  readonly retryable: boolean;
  /** How much later, if the answer says so. */
  readonly retryAfterSeconds: number | undefined;

  constructor(
    message: string,
    fields: Pick<AbideProblem, 'code' | 'retryable'> &
      Partial<Pick<AbideProblem, 'status' | 'requestId' | 'errors' | 'retryAfterSeconds' | 'cause'>>,
  ) {
    super(message, fields.cause === undefined ? {} : { cause: fields.cause });
    this.code = fields.code;
    this.status = fields.status;
    this.requestId = fields.requestId;
    this.errors = fields.errors ?? [];
    this.retryable = fields.retryable;
    this.retryAfterSeconds = fields.retryAfterSeconds;
  }
}

/** Statuses that a proxy answers with, and that pass by themselves. */
const PASSING: readonly number[] = [408, 429, 502, 503, 504];

/** What an answer that is not a good one says. `text` is its body. */
export function problemOf(response: Response, text: string): AbideProblem {
  const { status, headers } = response;
  const requestId = headers.get('x-request-id') ?? undefined;
  const retryAfterSeconds = secondsOf(headers.get('retry-after'));
  const problem = headers.get('content-type')?.startsWith('application/problem+json')
    ? (parsed(text) as Partial<Problem> | undefined)
    : undefined;
  if (typeof problem?.code !== 'string') {
    const retryable = PASSING.includes(status);
    const fields = { code: 'unexpected-answer', status, requestId, retryable, retryAfterSeconds };
    return new AbideProblem(`What answered ${status} is not Abide.`, fields);
  }
  return new AbideProblem(problem.detail ?? problem.title ?? problem.code, {
    code: problem.code,
    status,
    requestId: problem.request_id ?? requestId,
    errors: problem.errors ?? [],
    retryable: problem.retryable === true,
    retryAfterSeconds,
  });
}

/** Undefined if it is not JSON. */
export function parsed(text: string): unknown {
  try {
    return JSON.parse(text) as unknown;
  } catch {
    return undefined;
  }
}

/** Retry-After: seconds, or a date. */
function secondsOf(header: string | null): number | undefined {
  if (header === null) return undefined;
  const seconds = /^\d+$/.test(header) ? Number(header) : (Date.parse(header) - Date.now()) / 1_000;
  return Number.isNaN(seconds) ? undefined : Math.max(0, seconds);
}
