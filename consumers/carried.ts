// One decision on its way to a store, and what is said of it to the ledger.
import type { Held } from '../connectors/contract/connector.ts';
import { isScope } from '../suppression/scope.ts';
import { HELD_SCOPES_MAX } from '../suppression/acknowledgement.ts';
import type { Acknowledgement, CarriedBy } from '../suppression/acknowledgement.ts';
import type { Decision } from '../suppression/decision.ts';

export type Carried = {
  readonly decision: Decision;
  readonly lane: 'live' | 'backfill';
  readonly carriedBy: CarriedBy;
  readonly consumedAt: string;
  /** The store's generation when it was last asked. */
  generation: number;
  /** Times that the store was asked and answered, or failed on this one alone; a mere outage does not count. */
  attempts: number;
  /** The count with which the ledger gave it out: only the try that follows reports it, no later one. */
  asked: number;
  /** Times that the ledger knew nothing of it yet. */
  unseen: number;
  /** Times that a call with this one in it threw. */
  throws: number;
  /** What failed together is halved until the one that the store chokes on is alone; undefined: it may go with any other. */
  piece: symbol | undefined;
  settled: PromiseWithResolvers<void>;
  /** Reported or let go: a later failure in its batch does not concern it. */
  answered: boolean;
};

export function toCarried(
  decision: Decision,
  lane: Carried['lane'],
  carriedBy: CarriedBy,
  { attempts = 0, asked = 0 }: Partial<Pick<Carried, 'attempts' | 'asked'>> = {},
): Carried {
  return {
    decision,
    lane,
    carriedBy,
    attempts,
    asked,
    generation: 0,
    unseen: 0,
    throws: 0,
    piece: undefined,
    consumedAt: new Date().toISOString(),
    settled: Promise.withResolvers(),
    answered: false,
  };
}

/** What became of a decision that was carried. */
export type Result = {
  /** The decision that this is said of, if it is another one of the same subject. */
  readonly of?: Pick<Decision, 'seq' | 'version'>;
  readonly outcome: Acknowledgement['outcome'];
  readonly held?: Held;
  readonly code?: string;
  readonly appliedAt?: string;
  readonly verifiedAt?: string;
};

/** A report belongs to the generation that the store had when it was read back. */
export type Report = {
  readonly carried: Carried;
  readonly generation: number;
  readonly acknowledgement: Acknowledgement;
};

const NOTHING_HELD: Held = { version: undefined, suppressed: [] };

export const toReport = (
  carried: Carried,
  { of = carried.decision, outcome, held = NOTHING_HELD, code, appliedAt, verifiedAt }: Result,
): Report => ({
  carried,
  generation: carried.generation,
  acknowledgement: {
    seq: of.seq,
    version: of.version,
    subjectId: carried.decision.subjectId,
    outcome,
    held,
    carriedBy: carried.carriedBy,
    attempts: Math.max(1, carried.attempts),
    asked: carried.asked === 0 ? undefined : carried.asked,
    code,
    evidence: { consumedAt: carried.consumedAt, appliedAt, verifiedAt },
  },
});

/** What a connector answered, reduced to what can be so: the ledger refuses a whole report for one malformed number. */
export function toHeld(answer: Held | undefined): Held {
  if (answer === undefined) return NOTHING_HELD;
  const { version, suppressed } = answer;
  return {
    version: Number.isSafeInteger(version) && version! >= 0 ? version : undefined,
    suppressed: suppressed.filter(isScope).slice(0, HELD_SCOPES_MAX),
  };
}
