// What a worker reports of a store, and how what is held compares with what was decided. The worker compares before it
// reports and the ledger compares again before it believes.
import type { Decision, Granted, Instant } from './decision.ts';
import { heldAs } from './scope.ts';
import type { StoreScopes } from './scope.ts';

/** What a store holds of a subject: the suppressed scopes and, where it stores one, the version. */
export type Held = { readonly version: number | undefined; readonly suppressed: readonly string[] };

/** Most scopes that are taken of one subject. */
export const HELD_SCOPES_MAX = 1_000;

export const OUTCOMES = ['verified', 'applied', 'absent', 'refused', 'failed'] as const;
export type Outcome = (typeof OUTCOMES)[number];

/**
 * Why a decision failed that a lift of before overtook in a store without versions, so that the store may not hold it, though it
 * may have acknowledged it. Only this failure makes outstanding again what is acknowledged: any other may be a late report of a try
 * that a better one has followed.
 */
export const LIFT_NOT_UNDONE = 'LIFT_NOT_UNDONE';

export const CARRIED_BY = ['stream', 'redrive', 'catch_up', 'retry', 'backfill'] as const;
/** Which way a decision came to the worker that carried it. `redrive` is the alarm: the stream lost it. */
export type CarriedBy = (typeof CARRIED_BY)[number];

export const REJECTIONS = [
  'unknown_seq',
  'version_mismatch',
  'ahead_of_ledger',
  'not_due',
  'not_verifiable',
  'old_generation',
] as const;
export type Rejection = (typeof REJECTIONS)[number];

/** The worker's own times, for diagnosis only: lag and latency come from the database's clock. */
export type Evidence = {
  readonly consumedAt?: string | undefined;
  readonly appliedAt?: string | undefined;
  readonly verifiedAt?: string | undefined;
};

export type Acknowledgement = {
  readonly seq: number;
  readonly version: number;
  /** Whom it is about; undefined: it does not say. A number alone may be another's: on a topic, or in a ledger that went back. */
  readonly subjectId?: string | undefined;
  readonly outcome: Outcome;
  readonly held: Held;
  readonly carriedBy: CarriedBy;
  readonly attempts: number;
  /** The count with which the decision was given out; undefined: it came with none. */
  readonly asked?: number | undefined;
  /** Of the form `^[A-Z][A-Z0-9_]{0,63}$`; required for refused and failed. */
  readonly code: string | undefined;
  readonly evidence: Evidence;
};

/** From the best to the worst. */
export const SOURCE_STATUSES = ['ok', 'catching_up', 'polling', 'down', 'unknown'] as const;
export type SourceStatus = (typeof SOURCE_STATUSES)[number];

/** `unknown` if there are none. */
export const worstStatus = (statuses: readonly SourceStatus[]): SourceStatus =>
  SOURCE_STATUSES.findLast((status) => statuses.includes(status)) ?? 'unknown';

/** The state of the worker's change source, as the lag shows it. */
export type SourceReport = {
  readonly kind: string;
  readonly status: SourceStatus;
  /** LSN, offset or seq: whatever the source counts in, as text. */
  readonly position: string | undefined;
  readonly positionAgeSeconds: number | undefined;
  readonly parked: number;
};

export type WorkerReport = {
  readonly id: string;
  readonly incarnation: string;
  readonly lastError: { readonly code: string; readonly at: string } | undefined;
  readonly source: SourceReport;
};

/** Whether it is still the store that it was. */
export type StoreObservation = {
  /** Null: there is nothing in its place; undefined: unknown. */
  readonly incarnation: string | null | undefined;
  /** Whether it holds the canary in the version that it acknowledged last; undefined: there is none. */
  readonly canary: 'held' | 'lost' | undefined;
};

/** What is decided of a subject now; a worker asks for it before it lifts anything. */
export type Newest = Pick<Decision, 'subjectId' | 'seq' | 'version' | 'suppressed' | 'granted'> & {
  /** The newest version acknowledged by the store as it is now: since it was last emptied or put back; 0: none. */
  readonly acknowledgedVersion: number;
  /** The oldest such version; 0: none. */
  readonly firstAcknowledgedVersion: number;
};

/** What a worker posts at least every 2 s: sign of life, lease renewal, acknowledgements (at most 1,000). */
export type AcknowledgementReport = {
  readonly generation: number;
  readonly worker: WorkerReport;
  /** What the worker saw of the store since its last sign of life. */
  readonly observed?: StoreObservation | undefined;
  readonly acknowledgements: readonly Acknowledgement[];
};

export type AcknowledgementAnswer = {
  readonly accepted: number;
  readonly duplicate: number;
  readonly rejected: readonly { readonly seq: number; readonly code: Rejection }[];
};

/** The scopes that a store must hold suppressed for this decision, in the store's own names. */
export const mustHold = (decision: Pick<Decision, 'suppressed'>, store: StoreScopes): string[] => [
  ...new Set(Object.keys(decision.suppressed).flatMap((scope) => heldAs(scope, store))),
];

/** Whether the store must hold this decision at all; the ledger's SQL function `due` is the same rule. */
export const isDue = (
  decision: Pick<Decision, 'kind' | 'suppressed' | 'granted'>,
  store: StoreScopes & { readonly accepts: readonly string[] },
): boolean =>
  store.accepts.includes(decision.kind) &&
  [...Object.keys(decision.suppressed), ...Object.keys(decision.granted)].some(
    (scope) => heldAs(scope, store).length > 0,
  );

/**
 * The scopes of a grant that the step had to clear: granted now, and the store had not been told of that grant before,
 * i.e. what it held was older than the grant. A scope still suppressed under another name is not cleared.
 */
export function mustClear(
  decision: Pick<Decision, 'suppressed' | 'granted'>,
  store: StoreScopes,
  heldVersionBefore: number,
): string[] {
  const lifted = Object.entries(decision.granted).filter(([, grant]) => heldVersionBefore < grant.version);
  if (lifted.length === 0) return [];
  const kept = new Set(mustHold(decision, store));
  return lifted.flatMap(([scope]) => heldAs(scope, store)).filter((scope) => !kept.has(scope));
}

/**
 * Which of a subject's grants a store is told of, if it was first told of the subject in version `first` (0: never): what was
 * granted after that, or since the store is told of all that (`since`). Anything else may be older than what the store suppresses
 * by itself, and nobody can tell.
 */
export const grantedSince = (
  granted: Readonly<Record<string, Granted>>,
  since: Instant | undefined,
  first = 0,
): Record<string, Granted> =>
  Object.fromEntries(
    Object.entries(granted).filter(
      ([, { at, version }]) => since === undefined || at >= since || (first > 0 && version > first),
    ),
  );

/**
 * What the store's answer to a read-back means: `held`, `missing` (a suppressed scope is not held), or `newer` (a newer version is
 * there: of a decision of ours or of none, which is for the ledger to tell).
 */
export function compareHeld(
  decision: Pick<Decision, 'version' | 'suppressed'>,
  store: StoreScopes,
  held: Held,
): 'held' | 'missing' | 'newer' {
  if (held.version !== undefined && held.version > decision.version) return 'newer';
  const has = new Set(held.suppressed);
  return mustHold(decision, store).every((scope) => has.has(scope)) ? 'held' : 'missing';
}

/**
 * The ledger follows a store that is ahead of it, but not so far that a subject's own versions, all below 2^53, would run out: a
 * store that holds nonsense must not keep anybody from opting out.
 */
export const FOLLOWED_TO = 2 ** 52;

export const DIFFERENCES = ['missing', 'older', 'resurrected', 'ahead'] as const;
/** How a store differs from what it acknowledged. */
export type Difference = {
  readonly seq: number;
  readonly kind: (typeof DIFFERENCES)[number];
  readonly heldVersion: number | undefined;
};

/** What a store's worker reads back again: what the store has acknowledged of the next subjects. */
export type ReconciliationPage = {
  readonly run: number;
  readonly generation: number;
  /** The page has the subjects after this one, through that one; it is taken once. */
  readonly after: string;
  readonly through: string;
  readonly isLast: boolean;
  readonly decisions: readonly Decision[];
  /** How the store's own suppressions are recorded; undefined: they are only counted. */
  readonly own?: { readonly scopes: readonly string[]; readonly others: readonly Decision[] } | undefined;
  /** How long to rest before the next page: 0 if somebody waits for this pass. */
  readonly pauseMs: number;
};

/** What reading one page of a store's subjects back again showed. */
export type Comparison = {
  readonly compared: number;
  readonly differences: readonly Difference[];
  /** Subjects of which the store suppresses more than was decided: its own doing. */
  readonly own: number;
  /** Of whom and what it suppresses, as far as that is to be recorded. */
  readonly ownSuppressions?: readonly OwnSuppression[] | undefined;
  /** Subjects whose address is erased: where a store keeps them can no longer be known. */
  readonly unread: number;
};

/** What a store suppresses of a subject beyond its newest decision, which `seq` names. */
export type OwnSuppression = { readonly seq: number; readonly suppressed: readonly string[] };

/**
 * What became of a decision that the store acknowledged, judged by what it holds now; undefined: it stands. `older`: the store
 * holds an older version, like one that went back in time. `resurrected`: it holds this version but not what that says, as after an
 * import that brought somebody back; or not what was decided, under a version that is nonsense. `ahead` is for the ledger to judge: it
 * may have decided anew meanwhile.
 */
export function differenceOf(
  decision: Pick<Decision, 'version' | 'suppressed'>,
  store: StoreScopes,
  held: Held | undefined,
): Difference['kind'] | undefined {
  const version = held?.version;
  if (held === undefined) return mustHold(decision, store).length === 0 ? undefined : 'missing';
  // Nobody follows it there, so what it suppresses is all that counts.
  if (version !== undefined && version > FOLLOWED_TO)
    return compareHeld(decision, store, { ...held, version: undefined }) === 'held'
      ? undefined
      : 'resurrected';
  switch (compareHeld(decision, store, held)) {
    case 'newer':
      return 'ahead';
    case 'held':
      return version !== undefined && version < decision.version ? 'older' : undefined;
    case 'missing':
      return version === undefined ? 'missing' : version < decision.version ? 'older' : 'resurrected';
  }
}

/** What the store suppresses on its own, without any decision telling it to. */
export const heldOfItsOwn = (
  decision: Pick<Decision, 'suppressed'>,
  store: StoreScopes,
  held: Held | undefined,
): string[] => {
  const told = new Set(mustHold(decision, store));
  return (held?.suppressed ?? []).filter((scope) => !told.has(scope));
};
