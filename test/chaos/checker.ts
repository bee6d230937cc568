// What must be so after a run, whatever happened in it. The checker has a model of its own (opt-outs add up, and a person's own
// later consent lifts what it names) and its own SQL, and knows nothing of ledger/: what the ledger believes is one of the things
// to check.
import type { Client } from 'pg';
import type { Contents } from '../pipeline/system.ts';
import type { Answered, Unanswered } from './clients.ts';

export const CATEGORIES = [
  'lost',
  'resurrected',
  'duplicate',
  'wrong_order',
  'lag_lie',
  'not_recovered',
] as const;
export type Category = (typeof CATEGORIES)[number];
export type Finding = { readonly category: Category; readonly what: string };

export type LedgerDump = {
  readonly decisions: readonly {
    readonly seq: number;
    readonly subject_id: string;
    readonly opt_out_id: string | null;
    readonly cause: string;
    readonly version: number;
    readonly scopes: readonly string[];
  }[];
  readonly opt_outs: readonly {
    readonly id: string;
    readonly subject_id: string;
    readonly scopes: readonly string[];
  }[];
  readonly grants: readonly {
    readonly id: string;
    readonly subject_id: string;
    readonly scopes: readonly string[];
  }[];
  /** By store, the sequence numbers of the decisions that the ledger takes for held. */
  readonly settled: Readonly<Record<string, readonly number[]>>;
  /** How many opt-outs the audit log says were recorded. */
  readonly audited: number;
};

/** Read as the superuser, in one snapshot. */
export async function dumpLedger(client: Client): Promise<LedgerDump> {
  await client.query('begin isolation level repeatable read');
  const { rows: decisions } = await client.query<LedgerDump['decisions'][number]>(`
    select seq::float8 as seq, subject_id, opt_out_id, cause, version::float8 as version,
      array(select jsonb_object_keys(suppressed) order by 1) as scopes
    from decisions order by seq`);
  const { rows: optOuts } = await client.query<LedgerDump['opt_outs'][number]>(`
    select o.id, s.subject_id, array(select unnest(o.requested_scopes) order by 1) as scopes
    from opt_outs o join opt_out_subjects s on s.opt_out_id = o.id order by o.id`);
  const { rows: grants } = await client.query<LedgerDump['grants'][number]>(
    'select id, subject_id, lifted_scopes as scopes from grants order by id',
  );
  // What lies at or below the mark and is no exception is confirmed without a row.
  const { rows: settled } = await client.query<{ name: string; seqs: number[] }>(`
    select s.name, array(
      select d.seq::float8 from decisions d
      where not exists (select from exceptions e
          where e.store_id = s.id and e.generation = s.generation and e.subject_id = d.subject_id
            and d.seq between e.speaks_from and e.seq)
        and (d.seq <= s.scanned_through
          or exists (select from acknowledgements a
            where a.store_id = s.id and a.generation = s.generation and a.seq = d.seq))
      order by d.seq) as seqs
    from stores s where s.retired_at is null`);
  const { rows: audited } = await client.query<{ n: number }>(
    `select count(*)::int as n from audit_log where action = 'opt_out.recorded'`,
  );
  await client.query('commit');
  return {
    decisions,
    opt_outs: optOuts,
    grants,
    settled: Object.fromEntries(settled.map(({ name, seqs }) => [name, seqs])),
    audited: audited[0]!.n,
  };
}

export type Evidence = {
  readonly answered: readonly Answered[];
  readonly unanswered: readonly Unanswered[];
  readonly ledger: LedgerDump;
  readonly stores: Readonly<Record<string, Contents>>;
  /** Lies that were told while the run went on. */
  readonly lies: readonly string[];
  /** The stores that the lag, in its last answer, called ok with nothing outstanding; it was read before the stores were. */
  readonly calledOk: readonly string[];
};

/**
 * What a ledger that went back to `takenAt` still owes if a store held everything before: whatever was suppressed is suppressed.
 * What was recorded later is recorded anew, under other ids (by address in `ids`); a later consent may be forgotten.
 */
export function stillPromised(
  answered: readonly Answered[],
  takenAt: number,
  ids: ReadonlyMap<string, string>,
): Pick<Evidence, 'answered' | 'unanswered'> {
  const consents = answered.filter(({ says }) => says === 'yes');
  const forgotten = consents.filter(({ answeredAt }) => answeredAt >= takenAt);
  const promised = [...promisedBy(answered)].map(([email, scopes]): Answered => ({
    ...answered.find((one) => one.email === email)!,
    says: 'no',
    scopes: [...scopes],
    key: undefined,
    id: ids.get(email),
  }));
  return {
    answered: [...consents.filter((one) => !forgotten.includes(one)), ...promised],
    unanswered: forgotten.flatMap(({ email, scopes }) => [
      { says: 'no', email, scopes },
      // Recorded before, perhaps, and answered after; what it lifted is known from the stores all the same.
      { says: 'yes', email, scopes: [] },
    ]),
  };
}

/** By address, what the requests that were answered 2xx have suppressed. */
function promisedBy(answered: readonly Answered[]): Map<string, Set<string>> {
  const promised = new Map<string, Set<string>>();
  for (const { says, email, scopes } of answered) {
    const known = promised.get(email) ?? new Set();
    promised.set(email, known);
    for (const scope of scopes) {
      if (says === 'no') known.add(scope);
      else known.delete(scope);
    }
  }
  return promised;
}

const names = (scopes: Iterable<string>): string => [...scopes].sort().join('+') || 'nothing';

export function check({
  answered,
  unanswered,
  ledger,
  stores,
  lies,
  calledOk,
}: Evidence): readonly Finding[] {
  const findings: Finding[] = [];
  const find = (category: Category, what: string): void => {
    findings.push({ category, what });
  };
  for (const lie of lies) find('lag_lie', lie);

  // --- what was answered, and what the ledger has
  const optOuts = new Map(ledger.opt_outs.map((one) => [one.id, one]));
  const grants = new Map(ledger.grants.map((one) => [one.id, one]));
  const ofSubject = Map.groupBy(ledger.decisions, ({ subject_id: subject }) => subject);
  /** Address → its subject, as far as answers tell. */
  const subjects = new Map<string, string>();
  const promised = promisedBy(answered);
  for (const { says, email, id } of answered) {
    if (id === undefined) continue;
    const recorded = (says === 'no' ? optOuts : grants).get(id);
    if (recorded === undefined) {
      const what = says === 'no' ? 'opt-out' : 'grant';
      find('lost', `${email}: answered with ${what} ${id}, which the ledger does not have`);
      continue;
    }
    const subject = subjects.get(email) ?? recorded.subject_id;
    subjects.set(email, subject);
    if (subject !== recorded.subject_id) find('duplicate', `${email}: is two subjects`);
  }
  /** Whether a request that was not answered may have suppressed it, or lifted it. */
  const isOpen = (says: 'no' | 'yes', email: string, scope: string): boolean =>
    unanswered.some((one) => one.says === says && one.email === email && one.scopes.includes(scope));

  for (const [email, scopes] of promised) {
    const newest = ofSubject.get(subjects.get(email) ?? '')?.at(-1);
    const missing = [...scopes].filter(
      (scope) => newest?.scopes.includes(scope) !== true && !isOpen('yes', email, scope),
    );
    if (missing.length > 0) find('lost', `${email}: ${names(missing)} is not in the ledger`);
    const invented = newest?.scopes.filter((scope) => !scopes.has(scope) && !isOpen('no', email, scope));
    if (invented !== undefined && invented.length > 0)
      find('duplicate', `${email}: nobody asked for ${names(invented)}, and the ledger has it`);
  }

  // --- one effect a request
  for (const [key, ids] of Map.groupBy(
    answered.filter((one) => one.key !== undefined),
    (one) => one.key!,
  )) {
    const named = new Set(ids.map(({ id }) => id));
    if (named.size > 1) find('duplicate', `key ${key}: was answered with ${named.size} ids`);
  }
  const decided = ledger.decisions.filter(({ cause }) => cause === 'opt_out');
  for (const [id, made] of Map.groupBy(decided, (one) => one.opt_out_id))
    if (made.length > 1) find('duplicate', `opt-out ${id}: ${made.length} decisions`);
  if (ledger.audited !== decided.length)
    find('duplicate', `${decided.length} opt-outs were decided, the audit log has ${ledger.audited}`);

  // --- grants that somebody gave, each lifting once
  const given = new Set(answered.flatMap(({ says, id }) => (says === 'yes' && id !== undefined ? [id] : [])));
  const asked = unanswered.filter(({ says }) => says === 'yes').length;
  const ungiven = ledger.grants.filter(({ id }) => !given.has(id));
  if (ungiven.length > asked)
    find('resurrected', `${ungiven.length} grants that nobody was told of, ${asked} were not answered`);
  const lifting = ledger.decisions.filter(({ cause }) => cause === 'grant').length;
  if (lifting !== ledger.grants.length)
    find('resurrected', `${ledger.grants.length} grants, and ${lifting} decisions that lift`);
  const liftable = Map.groupBy(ledger.grants, (one) => one.subject_id);

  // --- versions in the order of decisions, states that only grow, but for grants
  for (const [subject, decisions] of ofSubject) {
    for (const [n, one] of decisions.entries()) {
      const before = decisions[n - 1];
      if (before === undefined) continue;
      const at = `subject ${subject}, decision ${one.seq}`;
      if (one.version <= before.version)
        find('wrong_order', `${at}: version ${one.version} after ${before.version}`);
      const mayLift =
        one.cause === 'grant' ? (liftable.get(subject) ?? []).flatMap(({ scopes }) => scopes) : [];
      const lifted = before.scopes.filter((scope) => !one.scopes.includes(scope) && !mayLift.includes(scope));
      if (lifted.length > 0) find('resurrected', `${at}: ${names(lifted)} lifted without a grant`);
      if (one.cause === 'opt_out' && names(one.scopes) === names(before.scopes))
        find('duplicate', `${at}: an opt-out that changes nothing`);
    }
  }

  // --- what the stores hold
  for (const [store, contents] of Object.entries(stores)) {
    const settled = new Set(ledger.settled[store]);
    for (const [email, scopes] of promised) {
      const newest = ofSubject.get(subjects.get(email) ?? '')?.at(-1);
      const held = contents.get(email);
      const missing = [...scopes].filter(
        (scope) => held?.suppressed.includes(scope) !== true && !isOpen('yes', email, scope),
      );
      if (missing.length > 0) {
        // A row of this very version without the scope was written and lifted again; otherwise the scope never came, or went away.
        const lifted = held !== undefined && held.version === newest?.version;
        find(lifted ? 'resurrected' : 'lost', `${email}: ${store} does not hold ${names(missing)}`);
        if (newest !== undefined && settled.has(newest.seq))
          find('lag_lie', `${email}: the ledger takes decision ${newest.seq} for held by ${store}`);
        if (calledOk.includes(store))
          find('lag_lie', `${email}: the lag called ${store} ok with nothing outstanding`);
      }
      if (held !== undefined && newest !== undefined && held.version !== newest.version)
        find(
          'wrong_order',
          `${email}: ${store} holds version ${held.version}, the newest is ${newest.version}`,
        );
      const invented = held?.suppressed.filter((scope) => newest?.scopes.includes(scope) === false);
      if (invented !== undefined && invented.length > 0)
        find('duplicate', `${email}: ${store} holds ${names(invented)}, which nobody decided`);
    }
  }
  return findings;
}
