// A database that goes back in time under a running process: a backup is put in its place, or a standby takes over that had not
// received everything. Then nothing holds that the process made sure of when it started: that the database has its keys and knows its
// stores. It must end; what starts in its place makes sure again.
import { AbideError } from '../suppression/errors.ts';
import type { Instant } from '../suppression/decision.ts';
import { audit } from './audit.ts';
import type { Queryable } from './database.ts';

/** No row of the two is ever removed, and what can be seen is on disk: these numbers only grow. */
const NEWEST = `
  select coalesce((select max(seq) from decisions), 0) as decision, coalesce((select max(seq) from audit_log), 0) as entry`;

export type SetBackWatch = {
  /** This decision is committed. */
  saw(seq: number): void;
  /**
   * Throws LEDGER_SET_BACK if the database lacks what was in it at an earlier look, or a decision that was seen, and has the
   * database keep that it does.
   */
  look(): Promise<void>;
};

export function createSetBackWatch(db: Queryable): SetBackWatch {
  const seen = { decision: 0, entry: 0 };
  return {
    saw: (seq) => {
      seen.decision = Math.max(seen.decision, seq);
    },
    look: async () => {
      // What is committed while the question is under way need not be in its answer.
      const before = { ...seen };
      const { rows } = await db.query<typeof seen>({ name: 'newest-of-all', text: NEWEST });
      const now = rows[0]!;
      if (now.decision < before.decision || now.entry < before.entry) {
        // A database that takes no writes yet is no reason to go on.
        await audit(db, undefined, 'ledger.set_back', undefined, {}).catch(() => undefined);
        throw new AbideError('LEDGER_SET_BACK');
      }
      seen.decision = Math.max(seen.decision, now.decision);
      seen.entry = now.entry;
    },
  };
}

/** When it was noticed that the database went back; undefined if it never was, or `abide ledger restored` was called since. */
export async function lastSetBack(db: Queryable): Promise<Instant | undefined> {
  const { rows } = await db.query<{ at: Instant; action: string }>(
    `select at, action from audit_log where action in ('ledger.set_back', 'ledger.restored') order by seq desc limit 1`,
  );
  return rows[0]?.action === 'ledger.set_back' ? rows[0].at : undefined;
}
