import type { SubjectState } from '../../suppression/decision.ts';
import type { Subject } from '../../suppression/subject.ts';

/** What became of one identifier whose address was to be erased. */
export type Erased = {
  readonly subject: Subject;
  /** `unknown`: the ledger has no such identifier. */
  readonly outcome: 'erased' | 'already_erased' | 'unknown';
  /** The stores that did not have the person, and cannot be told any more should it appear there; of those erased now. */
  readonly absent: readonly string[];
  /** It stays what it was. */
  readonly state: SubjectState;
};
