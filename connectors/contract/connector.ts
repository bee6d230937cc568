// The contract between a worker and the code that speaks to one kind of store, written as promises.
//
// A connector promises:
//   - apply() is idempotent and, with versions 'stored', compares and sets inside the store: an older version changes
//     nothing; an equal version suppresses again and clears nothing; a newer one suppresses what is suppressed, clears
//     a granted scope only if the version held is below the grant's, and leaves every other scope as it is.
//   - it gives one outcome per item, in order; a throw means "unknown" for the whole batch (the write may have happened).
//   - readBack() asks the store itself, on another connection than apply's and never a replica.
//   - every call ends when its signal aborts.
// The worker promises: no two items of one key in one batch, batches within `limits`, retries, time limits, order,
// metrics, lag. A connector knows nothing of those.
import { inspect } from 'node:util';
import type { z } from 'zod';
import type { Granted, Instant } from '../../suppression/decision.ts';
import type { Held } from '../../suppression/acknowledgement.ts';
import type { Subject } from '../../suppression/subject.ts';
import type { SubjectKind } from '../../suppression/subject-kind.ts';

export type { Held };

/** What a store is keyed by: the kind and the key that the configuration's `key:` makes of the address. */
export type SubjectKey = { readonly kind: SubjectKind; readonly key: string };

export type Lane = 'live' | 'backfill';

/** One decision for one store, in the store's own scope names. It prints without address or key. */
export class Item implements SubjectKey {
  readonly seq: number;
  readonly version: number;
  readonly subject: Subject;
  readonly kind: SubjectKind;
  readonly key: string;
  /** Scope → since when. */
  readonly suppressed: Readonly<Record<string, Instant>>;
  /** Scope → the grant that took it away. */
  readonly granted: Readonly<Record<string, Granted>>;
  readonly effectiveAt: Instant;
  readonly lane: Lane;

  constructor(fields: Omit<Item, 'kind' | 'toJSON' | typeof inspect.custom>) {
    this.seq = fields.seq;
    this.version = fields.version;
    this.subject = fields.subject;
    this.kind = fields.subject.kind;
    this.key = fields.key;
    this.suppressed = fields.suppressed;
    this.granted = fields.granted;
    this.effectiveAt = fields.effectiveAt;
    this.lane = fields.lane;
  }
  toJSON(): object {
    return { ...this, key: '[redacted]' };
  }
  [inspect.custom](): string {
    return `Item ${this.seq} (${this.kind} [redacted], version ${this.version})`;
  }
}

export type ApplyOutcome =
  | { readonly kind: 'applied' }
  /** The store holds this version or a newer one. */
  | { readonly kind: 'already_newer' }
  /** The store took a job and will show it later (`settles`). */
  | { readonly kind: 'accepted' }
  /** Nobody is there to suppress, and the store cannot remember strangers. */
  | { readonly kind: 'absent' }
  /** The store will not take this item, ever, as it is. The code matches `^[A-Z][A-Z0-9_]{0,63}$`. */
  | { readonly kind: 'refused'; readonly code: string };

/** How much later, if the store does not say. Retry-After counts whole seconds. */
const LATER_MS = 1_000;
/** Beyond this nobody would look, and a timer of more than 24.8 days would fire at once. */
const LATER_MS_MAX = 3_600_000;

/**
 * Thrown by apply or readBack: come again later; neither a failure nor an attempt (rate limits, Retry-After). At once is not later:
 * a store that says 0, or a date that has passed by our clock, would be asked again without a pause. Nor is it in a month: such a
 * store is asked again in an hour.
 */
export class TryLater extends Error {
  override readonly name = 'TryLater';
  readonly delayMs: number;
  constructor(delayMs = LATER_MS) {
    const laterMs = delayMs > 0 ? Math.min(delayMs, LATER_MS_MAX) : LATER_MS;
    super(`The store asks to be tried again in ${laterMs} ms.`);
    this.delayMs = laterMs;
  }
}

/** An open store. Disposal closes every connection and waits no longer than a second for any. */
export type Store = AsyncDisposable & {
  apply(batch: readonly Item[], signal: AbortSignal): Promise<readonly ApplyOutcome[]>;
  /** What the store holds now, in the order of the keys; undefined: nobody is there. */
  readBack(keys: readonly SubjectKey[], signal: AbortSignal): Promise<readonly (Held | undefined)[]>;
  /**
   * What tells this store from one that was wiped or put in its place: a different answer than before means another store, which is
   * filled anew. Null: there is nothing yet, such as no table. Undefined: it cannot tell. 1 to 200 characters.
   */
  incarnation?(signal: AbortSignal): Promise<string | null | undefined>;
  /**
   * For `abide config check`: tries apply and readBack with items that are nobody's, and leaves nothing of them. Throws what is
   * wrong, in words that contain no value from the store. Absent: the check only reads.
   */
  check?(items: readonly Item[], signal: AbortSignal): Promise<void>;
  /** If the store can list: a page of what it holds after a key, in key order. */
  scan?(
    after: SubjectKey | undefined,
    signal: AbortSignal,
  ): Promise<readonly (SubjectKey & { readonly held: Held })[]>;
};

export type Log = Record<'debug' | 'info' | 'warn' | 'error', (fields: object, message: string) => void>;

export type ConnectorContext = {
  readonly log: Log;
  /** The store's name and scopes in abide.yaml; a scope's value is what the connector's own schema made of it. */
  readonly name: string;
  readonly scopes: ReadonlyMap<string, unknown>;
};

export type Limits = {
  /** Most items in one apply. */
  readonly batch: number;
  /** Most items per second; absent: as many as the store takes. */
  readonly perSecond?: number;
  /** Most applies at once. */
  readonly concurrent: number;
};

export type Connector<Options extends z.ZodType = z.ZodType> = {
  /** What the stanza in abide.yaml may say, with descriptions: errors, help and documentation come from it. */
  readonly options: Options;
  /** What a scope's value may be if `scopes` is a map; absent: only a list is allowed. */
  readonly scopeValue?: z.ZodType;
  readonly accepts: readonly SubjectKind[];
  /** Can it hold a topic apart from its channel? */
  readonly topics: boolean;
  readonly versions: 'stored' | 'none';
  /** Can it keep a suppression for somebody it does not hold yet? Only the conformance suite reads this; a worker goes by `absent`. */
  readonly remembersUnknown: boolean;
  readonly evidence: 'read_back' | 'applied' | 'relay';
  readonly limits: Limits;
  /** For stores that answer before they are consistent: when to read back first, and when to give up. */
  readonly settles?: { readonly afterMs: number; readonly withinMs: number };
  /** Host, port, database and table or prefix: if these change, it is another store. Never credentials. */
  target(options: z.output<Options>): readonly string[];
  /** If several targets are one place: the one target that stands for them all. Only stores of one file are compared by it. */
  place?(options: z.output<Options>): readonly string[];
  open(options: z.output<Options>, context: ConnectorContext): Promise<Store>;
};

/** Checks a connector's declaration by type; the file's name is its `connector:` in abide.yaml. */
export const defineConnector = <Options extends z.ZodType>(
  connector: Connector<Options>,
): Connector<Options> => connector;
