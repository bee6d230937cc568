// One row per subject. The comparison runs inside PostgreSQL, in the statement that writes, so neither a second worker nor an old
// decision read again can lift a newer opt-out; a scope that nobody told us of is not touched.
//
// There are two ways to hold them: a table of our own shape, written set-based by one statement (below), or the user's own tables
// through two statements of the user's, with the versions beside them in abide_versions, in the same transaction.
//
// PostgreSQL's errors carry rows in `detail`, so none is ever passed on: only its SQLSTATE is.
import { Socket } from 'node:net';
import pg from 'pg';
import type { PoolClient, PoolConfig } from 'pg';
import { z } from 'zod';
import { AbideError } from '../suppression/errors.ts';
import { CHANNELS } from '../suppression/scope.ts';
import { SUBJECT_KINDS } from '../suppression/subject-kind.ts';
import { defineConnector } from './contract/connector.ts';
import type {
  ApplyOutcome,
  ConnectorContext,
  Held,
  Item,
  Log,
  Store,
  SubjectKey,
} from './contract/connector.ts';
import { applyInHalves, eachOutcome, nameOf, otherScopes, told } from './contract/outcomes.ts';
import {
  NOT_ONE_PLACE,
  applyOne,
  applyToOwn,
  isOnePlace,
  readBackOwn,
  readStatement,
  refuseColumns,
  refuseLoss,
  statementsOption,
} from './contract/own-statements.ts';
import type { Dialect, OwnTables, Parameter, Statement } from './contract/own-statements.ts';
import { coded, lineFailed } from './contract/line-failed.ts';
import { untilAborted } from './contract/until-aborted.ts';

const CONNECT_TIMEOUT_MS = 5_000;
const DISPOSE_WAIT_MS = 1_000;
const SCAN_PAGE = 10_000;
const BOOLEAN_TYPE = 16;
const JSON_TYPE = 114;
const JSONB_TYPE = 3802;
const NO_TABLE = '42P01';
// A btree entry may have 2,704 bytes, including the kind and headers. Since this is checked per item, one long push token cannot
// fail its neighbours; { sha256: hex } takes any.
const KEY_BYTES_MAX = 2_600;
/** "ABID" "SUPP": serialises the making of tables, which `if not exists` alone does not. */
const MAKING_TABLES = '4702111234474983536';

// --- options

// What may hold a colon or a dollar sign without meaning a parameter: E'' and '' literals, "" names, both comments,
// $tag$ literals, :: casts. Then :name, and $1.
const DIALECT: Dialect = {
  token:
    /[eE]'(?:[^'\\]|\\.|'')*'|'(?:[^']|'')*'|"(?:[^"]|"")*"|--[^\n]*|\/\*[\s\S]*?\*\/|\$(?<tag>[A-Za-z_]\w*)?\$[\s\S]*?\$\k<tag>\$|::|:(?<name>[A-Za-z_]\w*)|(?<foreign>\$\d+)/g,
  place(parameters, parameter) {
    if (!parameters.includes(parameter)) parameters.push(parameter);
    return `$${parameters.indexOf(parameter) + 1}`;
  },
};

/** Rewrites named parameters to positional ones, in the order of their first use. */
export const positional = (sql: string): Statement => readStatement(sql, DIALECT);

const options = z
  .strictObject({
    url: z
      .url({ protocol: /^postgres(ql)?$/, error: 'must be a postgres:// URL' })
      .describe('Connection URL of the primary; never a replica'),
    table: z
      .string()
      .regex(/^[^.\0]{1,63}(\.[^.\0]{1,63})?$/, 'must be a table or schema.table')
      .optional()
      .describe(
        "Table in Abide's own shape, created if missing, or schema.table in a schema that is there (default: suppressions)",
      ),
    statements: statementsOption(
      DIALECT,
      'Writes one subject: :key :kind :version :email :sms :push :scopes :effective_at; true suppresses, false was lifted by the person, null leaves it as it is',
      'Reads one subject by :key and :kind: boolean columns email, sms, push; optional: scopes (jsonb), version',
    ),
    statement_timeout_ms: z
      .int()
      .min(100)
      .default(10_000)
      .describe('PostgreSQL itself ends a statement after this long'),
  })
  .refine(isOnePlace, NOT_ONE_PLACE);

const quoted = (name: string): string => name.split('.').map(pg.escapeIdentifier).join('.');

// --- the table of our own shape

const COLUMNS = 'kind, key, version, email, sms, push, scopes, effective_at, updated_at';

const makeTable = (table: string): string => `
  create table if not exists ${table} (
    kind text collate "C" not null,
    key text collate "C" not null,
    version bigint,
    email boolean,
    sms boolean,
    push boolean,
    scopes jsonb not null default '{}',
    effective_at timestamptz,
    updated_at timestamptz not null default now(),
    primary key (kind, key)
  )`;

// $9 is kind:key → scope → the grant's version, for the few items that have grants: `excluded` has no room for it. Sorted, so that
// two batches take their row locks in one order. An equal version writes only if a suppression is missing: a replay costs no WAL,
// and what a resurrection cleared is set again. Scopes that are no object, such as the [] that PHP makes of an empty array, count as
// {}: to a list, || would append.
const applyTo = (table: string): string => {
  const set = (channel: string): string => `
    case when excluded.${channel} then true
         when excluded.${channel} is false and coalesce(held.version, 0) < (grants.at_version ->> '${channel}')::bigint
         then false else held.${channel} end`;
  return `
  insert into ${table} as held (${COLUMNS})
  select kind, key, version, email, sms, push, scopes, effective_at, clock_timestamp()
  from unnest($1::text[], $2::text[], $3::bigint[], $4::boolean[], $5::boolean[], $6::boolean[], $7::jsonb[], $8::timestamptz[])
    as item (kind, key, version, email, sms, push, scopes, effective_at)
  order by kind collate "C", key collate "C"
  on conflict (kind, key) do update
  set (version, email, sms, push, scopes, effective_at, updated_at) = (
    select excluded.version, ${CHANNELS.map(set).join(', ')},
      case when jsonb_typeof(held.scopes) = 'object' then held.scopes else '{}' end || case when excluded.scopes = '{}' then excluded.scopes else (
        select coalesce(jsonb_object_agg(scope, is_suppressed), '{}')
        from jsonb_each(excluded.scopes) as told (scope, is_suppressed)
        where is_suppressed = 'true' or coalesce(held.version, 0) < (grants.at_version ->> scope)::bigint) end,
      excluded.effective_at, clock_timestamp()
    from (select $9::jsonb -> (excluded.kind || ':' || excluded.key) as at_version) as grants)
  where excluded.version > coalesce(held.version, 0)
    or (excluded.version = held.version and (
      ${CHANNELS.map((channel) => `(excluded.${channel} and held.${channel} is not true)`).join(' or ')}
      or exists (select from jsonb_each(excluded.scopes) as told (scope, is_suppressed)
                 where is_suppressed = 'true' and coalesce(held.scopes, '{}') -> scope is distinct from 'true')))
  returning kind, key`;
};

// `limit 1` and KEPT_PLANS: one index probe per key, whatever the planner believes about a table that is just being filled.
const readFrom = (table: string): string => `
  select pg_is_in_recovery() as is_replica, held.*
  from unnest($1::text[], $2::text[]) with ordinality as wanted (kind, key, at)
  left join lateral (
    select true as is_there, version, email, sms, push, scopes from ${table}
    where kind = wanted.kind and key = wanted.key limit 1) as held on true
  order by at`;

const listFrom = (table: string): string => `
  select kind, key, version, email, sms, push, scopes from ${table}
  where (kind, key) > ($1, $2) and kind = any($3) order by kind, key limit ${SCAN_PAGE}`;

// Our own statements are planned once per connection. To PostgreSQL a plan for the very keys at hand looks cheaper, so it would
// make one for each reading, which takes four times what reading does. A kept plan outlives the size that the table had. A server
// before PostgreSQL 12 does not know the first of these settings, and goes without.
const KEPT_PLANS = { plan_cache_mode: 'force_generic_plan', enable_seqscan: 'off' };

// By the row as a whole, since a server before PostgreSQL 12 has no such column, and no such collation.
const LOOK = `
  select to_regclass($1) is not null as there, (
    select case when base.typname = 'citext' then 'type ' || own.typname else 'collation ' || collname end
    from pg_attribute
    join pg_type as own on own.oid = atttypid
    join pg_type as base on base.oid = coalesce(nullif(own.typbasetype, 0), own.oid)
    left join pg_collation on pg_collation.oid = attcollation
    where attrelid = to_regclass($1) and attname = 'key'
      and (base.typname = 'citext' or to_jsonb(pg_collation) ->> 'collisdeterministic' = 'false')) as folds`;

// --- versions beside the user's own tables

const VERSIONS = 'abide_versions';
const MAKE_VERSIONS = `
  create table if not exists ${VERSIONS} (
    store text not null,
    kind text not null,
    key text collate "C" not null,
    version bigint not null,
    primary key (store, kind, key)
  )`;
// Locks the rows in one order and says what is held; 0 if nothing is.
const LOCK_VERSIONS = `
  insert into ${VERSIONS} as held (store, kind, key, version)
  select $1, kind, key, 0 from unnest($2::text[], $3::text[]) as item (kind, key)
  order by kind collate "C", key collate "C"
  on conflict (store, kind, key) do update set version = held.version
  returning kind, key, version`;
const KEEP_VERSIONS = `
  update ${VERSIONS} as held set version = item.version
  from unnest($2::text[], $3::text[], $4::bigint[]) as item (kind, key, version)
  where held.store = $1 and held.kind = item.kind and held.key = item.key and held.version < item.version`;
const FORGET_UNUSED = `
  delete from ${VERSIONS} as held using unnest($2::text[], $3::text[]) as item (kind, key)
  where held.store = $1 and held.kind = item.kind and held.key = item.key and held.version = 0`;
const READ_VERSIONS = `
  select wanted.kind, wanted.key, held.version, pg_is_in_recovery() as is_replica
  from unnest($2::text[], $3::text[]) as wanted (kind, key)
  left join ${VERSIONS} as held on held.store = $1 and held.kind = wanted.kind and held.key = wanted.key`;

// --- another store in the same place

// The cluster, its timeline (a failover begins a new one) and the table's file, which changes when the table is dropped, truncated
// or restored; vacuum full changes it too, after which the table is filled once too often.
const INCARNATION = `
  select case when found.oid is not null then concat_ws('/', (select system_identifier from pg_control_system()),
    (select timeline_id from pg_control_checkpoint()), found.oid, pg_relation_filenode(found.oid)) end as incarnation
  from (select to_regclass($1)::oid as oid) as found`;

// --- connections

/** About one item's values. */
const refusalCodeOf = (error: unknown): string | undefined =>
  error instanceof pg.DatabaseError && /^2[23]/.test(error.code ?? '') ? `SQLSTATE_${error.code}` : undefined;

const isOfTheServer = (code: string): boolean => /^(08|28|53|57|3D)/.test(code);

function failure(error: unknown, signal: AbortSignal): unknown {
  if (signal.aborted) return signal.reason;
  if (error instanceof AbideError) return error;
  if (!(error instanceof pg.DatabaseError)) {
    // The client library has no codes for what it finds out by itself.
    const message = error instanceof Error ? error.message : '';
    if (/client password must be/.test(message)) {
      return new AbideError('STORE_UNREACHABLE', 'PostgreSQL asks for a password, and `url` has none.');
    }
    const isEnded = /terminated/.test(message);
    return lineFailed(
      'PostgreSQL',
      error,
      /timeout/.test(message) ? 'ETIMEDOUT' : isEnded ? 'ECONNRESET' : undefined,
    );
  }
  const code = error.code ?? '';
  const meaning = MEANINGS[code];
  const told = `PostgreSQL answered SQLSTATE ${code}${meaning === undefined ? '' : `: ${meaning}`}.`;
  const options = { cause: coded(code) };
  if (code === '57014') return new AbideError('STORE_TIMEOUT', told, options);
  return new AbideError(isOfTheServer(code) ? 'STORE_UNREACHABLE' : 'STORE_FAILED', told, options);
}

const refuseReplica = (rows: readonly { readonly is_replica?: boolean }[]): void => {
  if (rows[0]?.is_replica === true) {
    throw new AbideError(
      'STORE_FAILED',
      'This PostgreSQL is a replica: it shows less than the primary holds.',
    );
  }
};

// --- `abide config check`

/** What PostgreSQL's own words would say; they are left out, since they may quote values. */
const MEANINGS: Readonly<Record<string, string>> = {
  '22P02': 'a text that its type cannot hold',
  '23502': 'a column that must not be null is left null',
  '23505': 'a row that already exists: add an on conflict clause',
  '28000': 'the user is wrong, or pg_hba.conf does not let it in from here',
  '28P01': 'the user or password is wrong',
  '3D000': 'no such database',
  '3F000': 'no such schema',
  '42501': 'not allowed to this role',
  '42601': 'a syntax error',
  '42703': 'no such column',
  '42804': 'a type that does not fit',
  '42883': 'no such function or operator for these types',
  '42P01': 'no such table',
  '42P08': 'a parameter with two types: cast it',
  '42P10': 'on conflict needs a unique index on these columns',
  '42P18': 'a parameter whose type cannot be determined: cast it',
  '53300': 'it has no connections left',
  '57P03': 'it is starting or shutting down',
};

/** Says which statement is wrong, on which line, and what it is about. */
async function named<T>(what: string, sql: string | undefined, work: () => Promise<T>): Promise<T> {
  try {
    return await work();
  } catch (error) {
    if (!(error instanceof pg.DatabaseError) || isOfTheServer(error.code ?? '')) throw error;
    const { code = '', position } = error;
    const isPlaced = sql !== undefined && position !== undefined;
    const line = isPlaced ? `, line ${sql.slice(0, Number(position)).split('\n').length}` : '';
    const meaning = MEANINGS[code] ?? 'PostgreSQL refuses it';
    throw new AbideError('STORE_FAILED', `${what}${line}: ${meaning} (SQLSTATE ${code}).`);
  }
}

/** Runs in a transaction that is rolled back, or ends with its connection. */
const rehearse = (line: Line, signal: AbortSignal, work: (client: PoolClient) => Promise<void>) =>
  line.run(signal, async (client) => {
    refuseReplica(
      (await client.query<{ is_replica: boolean }>('select pg_is_in_recovery() as is_replica')).rows,
    );
    await client.query('begin');
    await work(client);
    await client.query('rollback');
  });

/** A few connections for one purpose. A call that fails or is aborted takes its connection with it. */
function openLine(config: PoolConfig, table: Table, log: Log) {
  const sockets = new Set<Socket>();
  // The pool tells of a connection only once it is made; one that hangs before that must end as well.
  const stream = (): Socket => {
    const socket = new Socket();
    sockets.add(socket);
    return socket.once('close', () => sockets.delete(socket));
  };
  const pool = new pg.Pool({ ...config, stream });
  pool.on('connect', (client) => {
    // The query in flight reports the loss; without a listener the process would end.
    client.on('error', () => undefined);
  });
  pool.on('error', (error) => {
    const { code } = error as { code?: string };
    log.warn({ code }, 'an idle connection to PostgreSQL was lost; the next call opens another');
  });
  return {
    async run<T>(signal: AbortSignal, work: (client: PoolClient) => Promise<T>): Promise<T> {
      signal.throwIfAborted();
      const connecting = pool.connect();
      let client: PoolClient;
      try {
        client = await untilAborted(connecting, signal);
      } catch (error) {
        if (signal.aborted)
          void connecting.then(
            (late) => late.release(),
            () => undefined,
          );
        throw failure(error, signal);
      }
      try {
        const result = await untilAborted(work(client), signal);
        client.release();
        return result;
      } catch (error) {
        client.release(true);
        // The missing table may be ours, even if the whole database is another one now.
        if (error instanceof pg.DatabaseError && error.code === NO_TABLE) table.forget();
        throw failure(error, signal);
      }
    },
    async close(): Promise<void> {
      await untilAborted(pool.end(), AbortSignal.timeout(DISPOSE_WAIT_MS)).catch(() => undefined);
      for (const socket of sockets) socket.destroy();
    },
  };
}

// --- rows

type HeldRow = {
  readonly version?: string | number | null;
  readonly email: boolean | null;
  readonly sms: boolean | null;
  readonly push: boolean | null;
  readonly scopes?: Readonly<Record<string, unknown>> | null;
};

type ReadRow = HeldRow & { readonly is_replica: boolean; readonly is_there: boolean | null };
const NOBODY: ReadRow = { is_replica: false, is_there: null, email: null, sms: null, push: null };

const toVersion = (version: HeldRow['version']): number | undefined =>
  version === null || version === undefined ? undefined : Number(version);

function toHeld(row: HeldRow): Held {
  const scopes = Array.isArray(row.scopes) ? {} : (row.scopes ?? {});
  return {
    version: toVersion(row.version),
    suppressed: [
      ...CHANNELS.filter((channel) => row[channel] === true),
      ...Object.keys(scopes).filter((scope) => scopes[scope] === true),
    ],
  };
}

const refusalOf = ({ key }: SubjectKey): ApplyOutcome | undefined => {
  if (key.includes('\0')) return { kind: 'refused', code: 'KEY_NOT_TEXT' };
  return Buffer.byteLength(key) > KEY_BYTES_MAX ? { kind: 'refused', code: 'KEY_TOO_LONG' } : undefined;
};

const kindsOf = (keys: readonly SubjectKey[]): string[] => keys.map(({ kind }) => kind);
const keysOf = (keys: readonly SubjectKey[]): string[] => keys.map(({ key }) => key);

type Line = ReturnType<typeof openLine>;
type Lines = { readonly writing: Line; readonly reading: Line; readonly table: Table };
type Table = ReturnType<typeof openTable>;

/**
 * A table that the first write makes, as it must be if it is there. It is looked for first: a role that may not create tables can
 * use a made one.
 */
function openTable(name: string, statement: string) {
  const make = `select pg_advisory_xact_lock(${MAKING_TABLES}); ${statement}`;
  let seen = false;
  const isThere = async (client: PoolClient): Promise<boolean> => {
    if (seen) return true;
    const { rows } = await client.query<{ there: boolean; folds: string | null }>(LOOK, [name]);
    const { there, folds } = rows[0]!;
    if (folds !== null) {
      throw new AbideError(
        'STORE_FAILED',
        `The column key of table ${name} has the ${folds}, which takes two different keys for the same: make it text collate "C".`,
      );
    }
    return (seen = there);
  };
  return {
    /** Reading makes nothing: without a table, nobody is held. */
    isThere,
    async make(client: PoolClient): Promise<void> {
      if (await isThere(client)) return;
      await client.query(`begin; ${make}; commit`);
      seen = true;
    },
    /** The next call looks for it anew: if it was dropped, the next write makes it again. */
    forget(): void {
      seen = false;
    },
    /** In the caller's transaction, which may roll it back. */
    async makeWithin(client: PoolClient): Promise<void> {
      if (!(await isThere(client))) await client.query(make);
    },
  };
}

function ownTable(name: string, { writing, reading, table }: Lines): Omit<Store, typeof Symbol.asyncDispose> {
  const apply = { name: 'abide_apply', text: applyTo(name), rowMode: 'array' } as const;
  const read = { name: 'abide_read', text: readFrom(name) };
  const list = { name: 'abide_list', text: listFrom(name) };

  function valuesOf(items: readonly Item[]): unknown[] {
    const grants: Record<string, Record<string, number>> = {};
    for (const item of items) {
      const granted = Object.entries(item.granted);
      if (granted.length === 0) continue;
      grants[nameOf(item)] = Object.fromEntries(granted.map(([scope, { version }]) => [scope, version]));
    }
    return [
      kindsOf(items),
      keysOf(items),
      items.map(({ version }) => version),
      ...CHANNELS.map((channel) => items.map((item) => told(item, channel))),
      items.map((item) => JSON.stringify(otherScopes(item))),
      items.map(({ effectiveAt }) => effectiveAt),
      JSON.stringify(grants),
    ];
  }

  return {
    apply: (batch, signal) =>
      eachOutcome(batch, refusalOf, async (items) => {
        const written = new Set<string>();
        const refused = await writing.run(signal, async (client) => {
          await table.make(client);
          const write = async (some: readonly Item[]): Promise<void> => {
            const { rows } = await client.query<[string, string]>({ ...apply, values: valuesOf(some) });
            for (const [kind, key] of rows) written.add(`${kind}:${key}`);
          };
          return applyInHalves(items, write, refusalCodeOf);
        });
        return (item) =>
          refused.get(item) ?? { kind: written.has(nameOf(item)) ? 'applied' : 'already_newer' };
      }),

    async readBack(keys, signal) {
      const { rows } = await reading.run(signal, async (client) => {
        if (!(await table.isThere(client))) return { rows: keys.map(() => NOBODY) };
        const values = [kindsOf(keys), keysOf(keys)];
        return client.query<ReadRow>({ ...read, values });
      });
      refuseReplica(rows);
      return rows.map((row) => (row.is_there === true ? toHeld(row) : undefined));
    },

    check: (items, signal) =>
      rehearse(writing, signal, async (client) => {
        const keys = [kindsOf(items), keysOf(items)];
        await named(`table ${name}`, undefined, async () => {
          await table.makeWithin(client);
          await client.query(apply.text, valuesOf(items));
          await client.query(read.text, keys);
        });
      }),

    async scan(after, signal) {
      const values = [after?.kind ?? '', after?.key ?? '', SUBJECT_KINDS];
      const { rows } = await reading.run(signal, async (client) => {
        if (!(await table.isThere(client))) return { rows: [] };
        return client.query<HeldRow & SubjectKey>({ ...list, values });
      });
      return rows.map((row) => ({ kind: row.kind, key: row.key, held: toHeld(row) }));
    },
  };
}

/** The user's own tables: the versions go set-based, the user's statements one item at a time. */
function ownStatements(
  statements: { readonly apply: string; readonly read_back: string },
  { name: store, scopes }: Pick<ConnectorContext, 'name' | 'scopes'>,
  { writing, reading, table }: Lines,
): Omit<Store, typeof Symbol.asyncDispose> {
  const apply = positional(statements.apply);
  const read = positional(statements.read_back);

  const valuesOf = (keys: readonly SubjectKey[]) => [store, kindsOf(keys), keysOf(keys)];
  const run = <Row extends pg.QueryResultRow>(
    client: PoolClient,
    name: string,
    { text, parameters }: Statement,
    values: Readonly<Partial<Record<Parameter, unknown>>>,
  ) => client.query<Row>({ name, text, values: parameters.map((parameter) => values[parameter] ?? null) });
  const readRows = (client: PoolClient, { kind, key }: SubjectKey) =>
    run<HeldRow>(client, 'abide_own_read', read, { kind, key });

  const tablesOn = (client: PoolClient): OwnTables => ({
    run: (words) => client.query(words),
    begin: () => client.query('begin'),
    async lock(items) {
      const { rows } = await client.query<SubjectKey & { version: string }>({
        name: 'abide_lock_versions',
        text: LOCK_VERSIONS,
        values: valuesOf(items),
      });
      return new Map(rows.map((row) => [nameOf(row), Number(row.version)]));
    },
    keep: (items) =>
      client.query({
        name: 'abide_keep_versions',
        text: KEEP_VERSIONS,
        values: [...valuesOf(items), items.map(({ version }) => version)],
      }),
    forget: (items) =>
      client.query({ name: 'abide_forget_unused', text: FORGET_UNUSED, values: valuesOf(items) }),
    apply: async (values) => (await run(client, 'abide_own_apply', apply, values)).rowCount,
    readBack: async (key) => (await readRows(client, key)).rows.map(toHeld),
    holdsOtherScopes: apply.parameters.includes('scopes'),
    keepsVersions: apply.parameters.includes('version'),
    refusalOf: refusalCodeOf,
  });

  return {
    check: (items, signal) =>
      rehearse(writing, signal, async (client) => {
        const tables = tablesOn(client);
        await named(`table ${VERSIONS}`, undefined, async () => {
          await table.makeWithin(client);
          await tables.lock(items);
          await tables.keep(items);
          await tables.forget(items);
        });
        for (const item of items) {
          const { fields } = await named('statements.read_back', read.text, () => readRows(client, item));
          refuseColumns(scopes, { channel: 'boolean', scopes: 'jsonb' }, (column, isScopes) => {
            const type = fields.find((field) => field.name === column)?.dataTypeID;
            return isScopes ? type === JSON_TYPE || type === JSONB_TYPE : type === BOOLEAN_TYPE;
          });
          await named('statements.apply', apply.text, () => applyOne(tables, item, 0));
          await refuseLoss(tables, item);
        }
      }),

    apply: (batch, signal) =>
      eachOutcome(batch, refusalOf, (items) =>
        writing.run(signal, async (client) => {
          await table.make(client);
          return applyToOwn(tablesOn(client), items);
        }),
      ),

    readBack: (keys, signal) =>
      reading.run(signal, async (client) => {
        if (!(await table.isThere(client))) return keys.map(() => undefined);
        await client.query('begin isolation level repeatable read read only');
        const { rows } = await client.query<SubjectKey & { version: string | null; is_replica: boolean }>({
          name: 'abide_read_versions',
          text: READ_VERSIONS,
          values: valuesOf(keys),
        });
        refuseReplica(rows);
        const versions = new Map(rows.map((row) => [nameOf(row), toVersion(row.version)]));
        const held = await readBackOwn(tablesOn(client), keys, versions);
        await client.query('commit');
        return held;
      }),
  };
}

function targetOf({ url, table = 'suppressions', statements }: z.output<typeof options>): readonly string[] {
  const { host, port, database } = new pg.Client({ connectionString: url });
  const place = statements === undefined ? [table] : [statements.apply, statements.read_back];
  return [host, `${port}`, database ?? '', ...place];
}

export default defineConnector({
  options,
  accepts: SUBJECT_KINDS,
  topics: true,
  versions: 'stored',
  remembersUnknown: true,
  evidence: 'read_back',
  limits: { batch: 2_000, concurrent: 2 },

  target: targetOf,
  place: ({ table = 'suppressions', ...rest }) =>
    targetOf({ ...rest, table: table.includes('.') ? table : `public.${table}` }),

  open({ url, table: own = 'suppressions', statements, statement_timeout_ms }, { log, name, scopes }) {
    const settings = {
      statement_timeout: `${statement_timeout_ms}`,
      idle_in_transaction_session_timeout: `${statement_timeout_ms}`,
      ...(statements === undefined ? KEPT_PLANS : {}),
    };
    const config = (max: number): PoolConfig => ({
      connectionString: url,
      fallback_application_name: 'abide',
      max,
      // Kept open: a new connection would cost the next single decision its milliseconds.
      idleTimeoutMillis: 0,
      connectionTimeoutMillis: CONNECT_TIMEOUT_MS,
      // A line that is silent even then is gone; so is one that hangs in its first statement, onConnect's, which nothing else ends.
      query_timeout: statement_timeout_ms + CONNECT_TIMEOUT_MS,
      keepAlive: true,
      // Not sent as start-up options, which poolers refuse. A stronger synchronous_commit than `on` is left alone.
      // eslint-disable-next-line @typescript-eslint/no-misused-promises -- pg-pool awaits it, its types do not say so
      onConnect: (client) =>
        client.query(
          `select set_config('synchronous_commit', case
               when current_setting('synchronous_commit') in ('off', 'local', 'remote_write') then 'on'
               else current_setting('synchronous_commit') end, false),
             set_config(name, value, false) from json_each_text($1) as setting (name, value)
           where current_setting(name, true) is not null`,
          [JSON.stringify(settings)],
        ),
    });
    const [made, statement] =
      statements === undefined ? [quoted(own), makeTable(quoted(own))] : [VERSIONS, MAKE_VERSIONS];
    const table = openTable(made, statement);
    const writing = openLine(config(2), table, log);
    const reading = openLine(config(2), table, log);
    const lines = { writing, reading, table };
    return Promise.resolve({
      incarnation: (signal: AbortSignal) =>
        reading.run(signal, async (client) => {
          const { rows } = await client.query<{ incarnation: string | null }>({
            name: 'abide_incarnation',
            text: INCARNATION,
            values: [made],
          });
          return rows[0]?.incarnation;
        }),
      ...(statements === undefined
        ? ownTable(made, lines)
        : ownStatements(statements, { name, scopes }, lines)),
      async [Symbol.asyncDispose]() {
        await Promise.all([writing.close(), reading.close()]);
      },
    });
  },
});
