/** One error table: what a code means for the caller, for a worker and for operations. */
type ErrorEntry = {
  /** HTTP status if the error reaches a client. */
  readonly status: number;
  readonly title: string;
  /** Whether the same call, unchanged, may succeed later. */
  readonly retryable: boolean;
  /** What the reader can do about it. */
  readonly help: string;
};

const entry = (status: number, title: string, retryable: boolean, help: string): ErrorEntry => ({
  status,
  title,
  retryable,
  help,
});

/** Every code that Abide can answer, log or exit with. docs/errors.md lists the same codes; a test compares. */
export const ERRORS = {
  'malformed-json': entry(
    400,
    'The body is not valid JSON',
    false,
    'Send one JSON object; each member once.',
  ),
  'malformed-file': entry(
    400,
    'The file cannot be read',
    false,
    'See `detail` for the line; nothing of the file was recorded.',
  ),
  'invalid-request': entry(
    400,
    'The request cannot be read',
    false,
    'It is not valid HTTP/1.1, or it ended early.',
  ),
  unauthenticated: entry(
    401,
    'No valid credential',
    false,
    'Send `Authorization: Bearer <key>`, with a key that is known here and neither expired nor revoked.',
  ),
  'missing-scope': entry(
    403,
    'The key may not do this',
    false,
    'Use a key with the scope named in `detail`.',
  ),
  'second-key-needed': entry(
    403,
    'Another key must approve this',
    false,
    'The key that sent it cannot approve it: use the key of somebody else, with the scope `imports:approve`.',
  ),
  'not-found': entry(404, 'Not found', false, 'Check the path and the id.'),
  'method-not-allowed': entry(405, 'Method not allowed', false, 'See the `Allow` header.'),
  'opt-outs-are-irreversible': entry(
    405,
    'Opt-outs are irreversible',
    false,
    'Only the person can take an opt-out back, by a later consent with evidence.',
  ),
  'request-timeout': entry(408, 'The request took too long to arrive', true, 'Send it again.'),
  'idempotency-key-in-use': entry(409, 'The same key is still running', true, 'Repeat after `Retry-After`.'),
  'grant-not-later': entry(
    409,
    'The opt-out is the later one',
    false,
    'A consent lifts only what was opted out before it: `errors` names each scope that is in the way.',
  ),
  'erasure-too-early': entry(
    409,
    'A store does not hold the opt-out yet',
    true,
    'Once the address is erased, the store can never be told: `errors` names each one. Ask again when it has confirmed.',
  ),
  'import-not-waiting': entry(
    409,
    'The import does not wait any more',
    false,
    'Only an import that waits to begin can be approved or cancelled: see its state in `detail`.',
  ),
  'another-stanza': entry(
    409,
    'The configuration says otherwise of this store',
    false,
    'Give the worker the same stanza as the API: the same target, key form, scopes and kinds of subject.',
  ),
  'version-retired': entry(
    410,
    'This version of the API is retired',
    false,
    'Use the version that the `Link` with `rel="successor-version"` leads to.',
  ),
  'too-large': entry(413, 'The body is too large', false, 'Send at most the size named in `detail`.'),
  'unsupported-media-type': entry(415, 'Only JSON is read', false, 'Send Content-Type: application/json.'),
  'unsupported-file-type': entry(
    415,
    'Only CSV and NDJSON are read',
    false,
    'Send the file as text/csv or application/x-ndjson, in UTF-8 and not compressed.',
  ),
  'invalid-value': entry(422, 'The request has invalid values', false, 'Each fault is named in `errors`.'),
  'idempotency-key-reused': entry(
    422,
    'The key was used for another request',
    false,
    'Use a new key for a new request.',
  ),
  'too-many-requests': entry(429, 'Too many requests', true, 'Repeat after `Retry-After`.'),
  'budget-exhausted': entry(
    429,
    'The budget of the day is spent',
    true,
    'Repeat after `Retry-After`, or ask the operators of Abide to raise the budget of the key.',
  ),
  'headers-too-large': entry(431, 'The headers are too large', false, 'Send at most 16 KiB of headers.'),
  'internal-error': entry(500, 'Something broke on our side', true, 'Quote `request_id` when you report it.'),
  'issuer-unavailable': entry(
    503,
    'The token cannot be checked',
    true,
    "Its issuer's keys cannot be fetched: repeat after `Retry-After`, or use an API key.",
  ),
  'ledger-unavailable': entry(
    503,
    'The ledger cannot be reached',
    true,
    'Repeat with the same key: either nothing was recorded, or the same key finds what was.',
  ),
  overloaded: entry(503, 'Too much at once', true, 'Repeat after `Retry-After`; nothing was recorded.'),
  KEYS_MISSING: entry(
    500,
    'The key ring lacks a key that the database uses',
    false,
    'Use the ring that belongs to this database: ABIDE_KEYS, or keys.json in the data folder.',
  ),
  LEDGER_MISSING: entry(
    500,
    'The keys of a ledger are here, the ledger is not',
    false,
    'Restore the ledger from its backup; only where one is to begin: `abide ledger init`, or, in the data folder, move the files away that are named.',
  ),
  LEDGER_SET_BACK: entry(
    500,
    'The database lacks what was in it a moment ago',
    false,
    'A backup was put in its place, or a standby took over that had not received everything: follow docs/runbook.md, "A ledger that was restored".',
  ),
  KEYS_INVALID: entry(500, 'The key ring cannot be read', false, 'Restore it from its backup.'),
  RECEIPT_INVALID: entry(
    500,
    'A receipt does not prove what it says',
    false,
    'Check it with the public keys of the Abide that signed it; if they are the right ones, it was changed.',
  ),
  CONFIG_INVALID: entry(
    500,
    'The configuration is wrong',
    false,
    'Fix what is named, and try it with `abide config check`.',
  ),
  DATABASE_UNREACHABLE: entry(
    500,
    'The database cannot be reached',
    true,
    'It must run, accept these credentials and take writes.',
  ),
  POSTGRES_FAILED: entry(
    500,
    'The embedded PostgreSQL did not start',
    true,
    'Fix what is named, and start again.',
  ),
  STACK_FAILED: entry(500, 'The stack did not start', true, 'Fix what is named, and start again.'),
  CONNECTOR_FAILED: entry(
    500,
    "Debezium's connector does not run",
    true,
    "See Connect's log. Until it runs, the ledger drives every decision itself.",
  ),
  KAFKA_FAILED: entry(
    500,
    'The Kafka client gave up',
    true,
    'The worker polls the ledger, and tries again by itself with another client.',
  ),
  STORE_UNREACHABLE: entry(
    500,
    'A store cannot be reached',
    true,
    'Check that it runs and lets Abide in. The worker goes on trying by itself.',
  ),
  STORE_TIMEOUT: entry(500, 'A store did not answer in time', true, 'The worker goes on trying by itself.'),
  STORE_ASKS_TO_WAIT: entry(
    500,
    'A store asks to be left alone',
    true,
    'The worker tries again when the store says.',
  ),
  STORE_FAILED: entry(500, 'A store failed a call', true, 'The worker goes on trying by itself.'),
  GUARD_FAILED: entry(
    500,
    'A guard cannot be made or looked at',
    true,
    'Fix what is named, and run the command again.',
  ),
  NOT_HELD: entry(
    500,
    'A store answered yes but does not hold the opt-out',
    true,
    'Ask the store itself: `abide stores read`.',
  ),
  SEALED_UNREADABLE: entry(500, 'A sealed address cannot be opened', false, 'Check the key ring.'),
} as const satisfies Record<string, ErrorEntry>;

/** The form of a code, also of those in which a store or its connector says why it refuses somebody. */
export const CODE = /^[A-Z][A-Z0-9_]{0,63}$/;

export type ErrorCode = keyof typeof ERRORS;

/** One fault of a request, by JSON pointer (RFC 6901). The offending value is never in it. */
export type Fault = { readonly pointer: string; readonly detail: string };

/** An error that is data: its code decides, its message is for people and never contains an address. */
export class AbideError extends Error {
  override readonly name = 'AbideError';
  readonly code: ErrorCode;
  readonly errors: readonly Fault[] | undefined;
  readonly retryAfterSeconds: number | undefined;

  constructor(
    code: ErrorCode,
    detail?: string,
    options: ErrorOptions & { errors?: readonly Fault[]; retryAfterSeconds?: number } = {},
  ) {
    super(detail ?? ERRORS[code].title, options.cause === undefined ? {} : { cause: options.cause });
    this.code = code;
    this.errors = options.errors;
    this.retryAfterSeconds = options.retryAfterSeconds;
  }
}

/**
 * An error in words for people: its message and, if a system or a server gave the reason, that reason's code (ECONNREFUSED, 28P01).
 * The reason's own words are left out, since they may quote a value.
 */
export function sayError(error: unknown): string {
  if (!(error instanceof Error)) return String(error);
  const code = causeCode(error.cause);
  return code === undefined || error.message.includes(code) ? error.message : `${error.message} (${code})`;
}

/** The code that a system or a server gave for an error or for its cause; undefined if none did. */
export function causeCode(error: unknown): string | undefined {
  for (let one = error; one instanceof Error; one = one.cause) {
    if (!(one instanceof AbideError) && 'code' in one && /^\w{1,64}$/.test(String(one.code)))
      return String(one.code);
  }
  return undefined;
}
