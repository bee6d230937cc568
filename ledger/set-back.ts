// A database that goes back in time under a running process: a backup is put in its place, or a standby takes over that had not
// received everything. Then nothing holds that the process made sure of when it started: that the database has its keys and knows its
// stores. It must end; what starts in its place makes sure again.
import type { Instant } from '../suppression/decision.ts';
import { AbideError } from '../suppression/errors.ts';
import { audit } from './audit.ts';
import type { Queryable } from './database.ts';

// No row of the two tables is ever removed, and what can be seen is on disk; but while a server recovers, it may show less than it will
// have. Numbers alone do not tell: a database that went back gives them out again, and `abide ledger restored` goes on far above them.
const LOOK = `
  select (($1::bigint is null or exists (select from decisions where seq = $1 and id = coalesce($2, id)))
      and ($3::bigint is null or exists (select from audit_log where seq = $3 and at = $4))) as is_there,
    exists (select from audit_log where action = 'ledger.restored' and at > coalesce($4, '-infinity')) as is_restored,
    pg_is_in_recovery() as recovers, d.seq, d.id, a.seq as entry, a.at
  from (values (1)) one
  left join lateral (select seq, id from decisions order by seq desc limit 1) d on true
  left join lateral (select seq, at from audit_log order by seq desc limit 1) a on true`;

type Newest = { readonly seq: number | null; readonly id: string | null };
type Look = Newest & {
  readonly is_there: boolean;
  /** The drill for it is done, as far as the database is concerned. */
  readonly is_restored: boolean;
  readonly recovers: boolean;
  readonly entry: number | null;
  readonly at: Instant | null;
};

export type SetBackWatch = {
  /** This decision is committed. */
  saw(seq: number): void;
  /**
   * Throws LEDGER_SET_BACK if the database lacks the newest that was in it at the last look, or the newest decision that was seen, and
   * has the database keep that it does. While the server recovers, nothing is judged.
   */
  look(): Promise<void>;
};

export function createSetBackWatch(db: Queryable): SetBackWatch {
  let decision: Newest = { seq: null, id: null };
  let entry: Pick<Look, 'entry' | 'at'> = { entry: null, at: null };
  return {
    saw: (seq) => {
      if (seq > (decision.seq ?? 0)) decision = { seq, id: null };
    },
    look: async () => {
      const { rows } = await db.query<Look>({
        name: 'set-back',
        text: LOOK,
        values: [decision.seq, decision.id, entry.entry, entry.at],
      });
      const { is_there: isThere, is_restored: isRestored, recovers, seq, id, entry: newest, at } = rows[0]!;
      if (recovers) return;
      if (!isThere) {
        // A database that takes no writes is no reason to go on.
        if (!isRestored) await audit(db, undefined, 'ledger.set_back', undefined, {}).catch(() => undefined);
        throw new AbideError('LEDGER_SET_BACK');
      }
      // What was committed while the database was asked need not be in its answer.
      if ((seq ?? 0) >= (decision.seq ?? 0)) decision = { seq, id };
      entry = { entry: newest, at };
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
