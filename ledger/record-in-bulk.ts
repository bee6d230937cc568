// Records the rows of a file, thousands per transaction: the same lock and fold as for one opt-out (fold.ts), written by COPY. No
// answers are made: a row has no idempotency key and no answer, and a batch has one row of the audit log, with its rows and counts,
// at the time at which its opt-outs are recorded.
//
// The import's progress moves in the same transaction, so that each row counts once, whatever ends the process. While one batch is
// written the next one is folded; the next one commits after it, and waits for it if both name the same person.
import { randomUUIDv7 } from 'node:crypto';
import { setImmediate as nextTurn } from 'node:timers/promises';
import { from as copyFrom } from 'pg-copy-streams';
import { AbideError } from '../suppression/errors.ts';
import type { Scope } from '../suppression/scope.ts';
import { seal } from '../suppression/seal.ts';
import type { SealingKey } from '../suppression/seal.ts';
import { NORMAL_FORM } from '../suppression/subject.ts';
import type { Subject } from '../suppression/subject.ts';
import { beginSpending } from './budgets.ts';
import type { OnRefused } from './budgets.ts';
import type { Caller } from './contract/audit.ts';
import type { Import, ImportBatch, RowError } from './contract/imports.ts';
import { commit, isLockTimeout, isRace, onClient } from './database.ts';
import type { Client, Pool } from './database.ts';
import { findOptOutTogether, findSameOptOut } from './find.ts';
import { foldIntent, LOCKED, namedBy, toLocked } from './fold.ts';
import type { Locked, LockedRow, Looks } from './fold.ts';
import { ERRORS_KEPT_MAX, LEASE } from './imports.ts';
import type { KeyRing } from './key-ring.ts';
import { sinceOf } from './reissue.ts';
import { everyMatch, subjectKey } from './subject-key.ts';
import type { SubjectKey } from './subject-key.ts';

/** As many at once as keep both sides busy. */
export const BULK_FLIGHTS = 2;
/** Rows between two turns of live requests: about a millisecond's work. */
const SLICE = 50;
const TRIES = 5;

const BEGIN =
  "begin isolation level read committed; set local synchronous_commit = on; set local lock_timeout = '5s'";

// The transaction draws its id here, in a statement before those that take sequence numbers (fence.ts).
const LOCK = `
  with ${LOCKED}
  select (select json_agg(locked) from locked) as subjects, pg_current_xact_id()::text as xid, clock_timestamp() as now,
    (select opt_outs_per_day from api_keys where id = $3) as per_day,
    exists (select from api_keys where id = $3 and revoked_at is not null) as is_revoked`;

const SEEN = `
  select s.subject_id as id, encode(s.match_key, 'hex') as match, s.version, s.state, s.granted, false as erased
  from import_seen s where s.import_id = $1 and s.match_key = any ($2::bytea[])`;

const SEE = `
  insert into import_seen (import_id, match_key, subject_id, version, state, granted)
  select $1, match_key, id, version, state, granted
  from json_to_recordset($2) as x (id uuid, match_key bytea, version bigint, state jsonb, granted jsonb)
  order by match_key
  on conflict (import_id, match_key) do update set version = excluded.version, state = excluded.state,
    granted = excluded.granted`;

const MOVE = `
  update subjects s set version = x.version, state = x.state, granted = x.granted,
    sealed = coalesce(x.sealed, s.sealed), updated_at = $3
  from json_to_recordset($1) as x (id uuid, version bigint, state jsonb, granted jsonb, sealed bytea)
  where s.id = any ($2::uuid[]) and s.id = x.id`;

// Nothing happens if another process holds the import by now: the transaction is rolled back.
const PROGRESS = `
  with moved as (
    update imports set rows_done = $4, recorded = recorded + $5, already = already + $6, invalid = invalid + $7,
      lease_until = clock_timestamp() + ${LEASE}, errors_found = errors_found + json_array_length($8)
    where id = $1 and state = 'running' and lease_holder = $2 and rows_done = $3
    returning id, client, key_id, caller_address, request_id, dry_run, errors_found
  ), kept as (
    insert into import_errors (import_id, row_number, position, line, field, code)
    select moved.id, x.row_number, x.position, x.line, x.field, x.code
    from moved cross join json_to_recordset($8) as x (row_number bigint, position smallint, line bigint, field text, code text)
    where moved.errors_found <= ${ERRORS_KEPT_MAX}
  ), audited as (
    insert into audit_log (at, client, key_id, caller_address, action, resource, request_id, details)
    select $10, client, key_id, caller_address, 'import.recorded', id::text, request_id, $9::jsonb
    from moved where not dry_run
  )
  select id from moved`;

const COPIES = {
  decisions: `copy decisions (id, cause, opt_out_id, subject_id, kind, version, suppressed, granted, effective_at, recorded_at,
    sealed, transport_key_id) from stdin`,
  optOuts: `copy opt_outs (id, requested_scopes, effective_at, effective_at_stated, received_at, recorded_at, reason, regimes,
    client, key_id, api_version, import_id) from stdin`,
  bindings: 'copy opt_out_subjects (opt_out_id, subject_id, version, state, position) from stdin',
  subjects: `copy subjects (id, kind, pepper_id, match_key, normal_form, version, state, granted, sealed, updated_at)
    from stdin`,
} as const;

/** In COPY's text format. */
const asText = (value: string): string =>
  /[\\\t\n\r]/.test(value)
    ? value.replaceAll('\\', '\\\\').replaceAll('\t', '\\t').replaceAll('\n', '\\n').replaceAll('\r', '\\r')
    : value;
const asBytes = (bytes: Buffer): string => `\\\\x${bytes.toString('hex')}`;
const asJson = (value: object): string => asText(JSON.stringify(value));
const asList = (words: readonly string[]): string =>
  `{${words.map((word) => `"${asText(word)}"`).join(',')}}`;
const line = (...values: readonly (string | number | boolean)[]): string => `${values.join('\t')}\n`;

export type BulkRecorder = {
  /** As in Imports. */
  record(of: Import, holder: string, batch: ImportBatch, before: Promise<unknown>): Promise<boolean>;
};

/** `onRecorded` is called after a COMMIT that brought decisions. */
export function createBulkRecorder({
  pool,
  ring,
  transportKey,
  onRecorded,
  onRefused,
}: {
  /** Connections that are not pipelined: COPY cannot share one. */
  pool: Pool;
  ring: KeyRing;
  transportKey: () => SealingKey;
  onRecorded: () => void;
  onRefused: OnRefused;
}): BulkRecorder {
  /** Match keys of the batches under way. */
  const underWay = new Set<string>();
  /** Batches name their people in the order of the batches: otherwise two that share somebody would wait for each other. */
  let named: Promise<unknown> = Promise.resolve();

  async function keysOf(batch: ImportBatch): Promise<SubjectKey[][]> {
    const keys: SubjectKey[][] = [];
    for (const [n, { subjects }] of batch.rows.entries()) {
      if (n % SLICE === SLICE - 1) await nextTurn();
      keys.push(subjects.map((subject) => subjectKey(ring, subject)));
    }
    return keys;
  }

  async function recordOnce(
    of: Import,
    holder: string,
    batch: ImportBatch,
    keys: readonly (readonly SubjectKey[])[],
    before: Promise<unknown>,
  ): Promise<boolean> {
    let decisions = 0;
    const isRecorded = await onClient(pool, async (client) => {
      const folded = await foldBatch(client, of, batch, keys, before);
      decisions = folded.decisions.length;
      if (of.dryRun) await see(client, of, folded.changed);
      else await write(client, folded);
      // Rows count in their order, and none counts after one that failed.
      await before;
      const { counts, errors } = folded;
      await folded.spending.write();
      const { rowCount } = await client.query({
        name: 'import-progress',
        text: PROGRESS,
        values: [
          of.id,
          holder,
          batch.after,
          batch.through,
          counts.recorded,
          counts.already,
          counts.invalid,
          JSON.stringify(toErrorRows(errors)),
          JSON.stringify({
            rows: [batch.after + 1, batch.through],
            ...counts,
          }),
          folded.now,
        ],
      });
      if (rowCount !== 1) {
        await client.query('rollback');
        return false;
      }
      await commit(client);
      return true;
    });
    if (isRecorded && decisions > 0) onRecorded();
    return isRecorded;
  }

  /** Everything that the batch makes, ready to be written. Live requests get their turn in between. */
  async function foldBatch(
    client: Client,
    of: Import,
    batch: ImportBatch,
    keys: readonly (readonly SubjectKey[])[],
    before: Promise<unknown>,
  ) {
    const all = keys.flat();
    const matches = everyMatch(all);
    await client.query(BEGIN);
    const { rows } = await client.query<{
      subjects: LockedRow[] | null;
      now: string;
      per_day: number | null;
      is_revoked: boolean;
    }>({
      name: 'import-lock',
      text: LOCK,
      values: [matches, ring.pepperId, of.keyId],
    });
    const { now, subjects: locked, per_day: perDay, is_revoked: isRevoked } = rows[0]!;
    // Nothing more is wanted of a revoked key; a key that expired or was rotated sent its file while it was good.
    if (isRevoked) throw new AbideError('unauthenticated');
    const subjects = toLocked(locked, all);
    if (of.dryRun) {
      const seen = await client.query<LockedRow>({
        name: 'import-seen',
        text: SEEN,
        values: [of.id, matches],
      });
      for (const [hex, subject] of toLocked(seen.rows, all)) subjects.set(hex, subject);
    }
    // After the subjects, as everywhere; a dry run spends nothing. The batch before it goes first: otherwise that one would wait
    // for the budget, and this one for it.
    const caller = callerOf(of, perDay ?? undefined);
    if (perDay !== null && !of.dryRun) await before;
    const spending = await beginSpending(client, 'opt_out', of.dryRun ? [] : [caller], onRefused);
    const clock = { receivedAt: of.receivedAt, nowMs: Date.parse(now) };
    const transport = transportKey();
    const optOuts: string[] = [];
    const decisions: string[] = [];
    const bindings: string[] = [];
    let recorded = 0;
    const together: { readonly subjects: readonly Locked[]; readonly scopes: readonly Scope[] }[] = [];
    /** The address given for each subject that is new or was erased. */
    const addresses = new Map<string, Subject>();
    const errors: RowError[] = [...batch.errors];
    let already = batch.taken;
    const constant = line(asText(of.client), asText(of.keyId), 'v2', of.id);

    const looks: Looks<true> = {
      spend: (count) => (of.dryRun ? undefined : spending.take(caller, count)),
      // Whichever client it belongs to: for thousands of rows nobody asks.
      tell: () => (of.dryRun ? undefined : spending.take(caller, 0)),
      same: async (named, scopes, effectiveAt) =>
        (await findSameOptOut(client, ring, idsOf(named), scopes, effectiveAt)) && true,
      covering: async (named, scopes) => {
        if (isCoveredByOne(named, scopes)) return true;
        const here = together.some(
          (made) =>
            named.every((one) => made.subjects.includes(one)) &&
            scopes.every((scope) => made.scopes.includes(scope)),
        );
        return here || ((await findOptOutTogether(client, ring, idsOf(named), scopes)) && true);
      },
    };

    for (const [n, row] of batch.rows.entries()) {
      if (n % SLICE === SLICE - 1) await nextTurn();
      const named = namedBy(keys[n]!, subjects);
      const folded = await foldIntent(row, named, clock, looks);
      if (folded.kind === 'too_far_ahead') {
        errors.push({ row: row.row, line: row.line, column: 'effective_at', code: 'too_far_ahead' });
        continue;
      }
      // The batch is not recorded: the file goes on, or is sent again, once there is a budget again.
      if (folded.kind === 'exhausted') throw folded.error;
      if (folded.kind !== 'recorded') {
        already += 1;
        continue;
      }
      const { id, effectiveAt, isStated } = folded;
      recorded += 1;
      if (named.length > 1) together.push({ subjects: named, scopes: row.scopes });
      for (const [position, subject] of named.entries()) {
        const { hex } = keys[n]![position]!;
        subjects.set(hex, subject);
        addresses.set(hex, row.subjects[position]!);
        if (of.dryRun) continue;
        const { kind, value } = row.subjects[position]!;
        const { version, suppressed, granted } = subject.state;
        decisions.push(
          line(
            randomUUIDv7(),
            'opt_out',
            id,
            subject.id,
            kind,
            version,
            asJson(sinceOf(suppressed)),
            asJson(granted),
            effectiveAt,
            now,
            asBytes(seal(value.reveal(), transport, [subject.id, kind])),
            transport.id,
          ),
        );
        bindings.push(line(id, subject.id, version, asJson(suppressed), position));
      }
      if (of.dryRun) continue;
      optOuts.push(
        `${id}\t${asList(row.scopes)}\t${effectiveAt}\t${isStated}\t${of.receivedAt}\t${now}\t${row.reason}\t{}\t${constant}`,
      );
    }
    const invalid = new Set(errors.map(({ row }) => row)).size;
    const changed = [...subjects].filter(([, subject]) => subject.changed);
    return {
      now,
      spending,
      optOuts,
      decisions,
      bindings,
      changed,
      addresses,
      errors: errors.sort((a, b) => a.row - b.row),
      counts: { recorded, already, invalid },
    };
  }

  /** Decisions come first, since a trigger compares each new subject with its decision. Subjects go in match key order. */
  async function write(client: Client, folded: Awaited<ReturnType<typeof foldBatch>>): Promise<void> {
    const { changed, addresses, now } = folded;
    const sealed = (hex: string, { id }: Locked): Buffer | undefined => {
      const given = addresses.get(hex);
      return given && ring.seal(given.value.reveal(), [id, given.kind]);
    };
    await copy(client, COPIES.decisions, folded.decisions);
    await copy(client, COPIES.optOuts, folded.optOuts);
    await copy(client, COPIES.bindings, folded.bindings);
    const made: string[] = [];
    const inOrder = changed.filter(([, { isNew }]) => isNew).sort(([one], [other]) => (one < other ? -1 : 1));
    for (const [n, [hex, subject]] of inOrder.entries()) {
      if (n % SLICE === SLICE - 1) await nextTurn();
      const { version, suppressed, granted } = subject.state;
      made.push(
        line(
          subject.id,
          addresses.get(hex)!.kind,
          ring.pepperId,
          `\\\\x${hex}`,
          NORMAL_FORM,
          version,
          asJson(suppressed),
          asJson(granted),
          asBytes(sealed(hex, subject)!),
          now,
        ),
      );
    }
    await copy(client, COPIES.subjects, made);
    const moved = changed.filter(([, { isNew }]) => !isNew);
    if (moved.length === 0) return;
    const rows = moved.map(([hex, subject]) => ({
      ...toStateRow(subject),
      // An erased subject who asks again has given the address again.
      ...(subject.erased && addresses.has(hex)
        ? { sealed: `\\x${sealed(hex, subject)!.toString('hex')}` }
        : {}),
    }));
    await client.query({
      name: 'import-move',
      text: MOVE,
      values: [JSON.stringify(rows), moved.map(([, { id }]) => id), now],
    });
  }

  async function see(
    client: Client,
    of: Import,
    changed: readonly (readonly [string, Locked])[],
  ): Promise<void> {
    const rows = changed.map(([hex, subject]) => ({ ...toStateRow(subject), match_key: `\\x${hex}` }));
    await client.query({ name: 'import-see', text: SEE, values: [of.id, JSON.stringify(rows)] });
  }

  return {
    record: async (of, holder, batch, before) => {
      const turn = Promise.withResolvers<undefined>();
      const earlier = named;
      named = turn.promise;
      let names: readonly string[] = [];
      try {
        const keys = await keysOf(batch);
        await earlier;
        const its = [...new Set(keys.flat().map(({ hex }) => hex))];
        if (its.some((name) => underWay.has(name))) await before;
        names = its;
        for (const name of names) underWay.add(name);
        turn.resolve(undefined);
        for (let attempt = 1; ; attempt += 1) {
          try {
            return await recordOnce(of, holder, batch, keys, before);
          } catch (error) {
            // A live opt-out of somebody in the batch came first.
            if (!(isRace(error) || isLockTimeout(error))) throw error;
            // A table may be locked for as long as somebody's migration takes; that passes, and the file goes on.
            if (attempt === TRIES) throw new AbideError('overloaded', undefined, { cause: error });
          }
        }
      } finally {
        turn.resolve(undefined);
        for (const name of names) underWay.delete(name);
      }
    },
  };
}

async function copy(client: Client, text: string, lines: readonly string[]): Promise<void> {
  if (lines.length === 0) return;
  await new Promise<void>((resolve, reject) => {
    client.query(copyFrom(text)).once('error', reject).once('finish', resolve).end(lines.join(''));
  });
}

/** Whether one opt-out began all of it: then they were opted out together. */
function isCoveredByOne(named: readonly Locked[], scopes: readonly Scope[]): boolean {
  if (named.length === 1) return true;
  const began = named[0]!.state.suppressed[scopes[0]!]!.opt_out_id;
  return named.every(({ state }) => scopes.every((scope) => state.suppressed[scope]!.opt_out_id === began));
}

/** The sender of the file, with the budget that the key has now. */
const callerOf = ({ client, keyId, lineage }: Import, optOutsPerDay: number | undefined): Caller => ({
  client,
  keyId,
  address: '',
  requestId: '',
  budgets: { lineage, perDay: { opt_out: optOutsPerDay, grant: undefined, check: undefined } },
});

const idsOf = (named: readonly Locked[]): string[] => named.map(({ id }) => id);

const toStateRow = ({ id, state }: Locked): object => ({
  id,
  version: state.version,
  state: state.suppressed,
  granted: state.granted,
});

/** The errors of one row keep the order in which they stand. */
function toErrorRows(errors: readonly RowError[]): object[] {
  let position = 0;
  return errors.map(({ row, line: at, column, code }, n) => {
    position = errors[n - 1]?.row === row ? position + 1 : 0;
    return { row_number: row, position, line: at, field: column ?? null, code };
  });
}
