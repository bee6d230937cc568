// One row per subject, in MySQL 8 or MariaDB 10.6 and later. The comparison runs inside the server, in the statement that writes,
// so neither a second worker nor an old decision read again can lift a newer opt-out; a scope that nobody told us of is not
// touched.
//
// Neither server knows arrays or `returning`, so a batch goes in as one JSON text that JSON_TABLE makes rows of, and what became of
// it is read afterwards: `affectedRows` counts 0, 1 or 2 per row and proves nothing.
//
// There are two ways to hold them, as in PostgreSQL: a table of our own shape, or the user's own tables through two statements of
// the user's, with the versions beside them in abide_versions, in the same transaction.
//
// The servers' errors quote values, so none is ever passed on: only its number is.
import { readFileSync } from 'node:fs';
import { connect, isIP } from 'node:net';
import type { Socket } from 'node:net';
import mysql from 'mysql2/promise';
import type {
  Connection,
  ConnectionOptions,
  ResultSetHeader,
  RowDataPacket,
  SslOptions,
} from 'mysql2/promise';
import { z } from 'zod';
import { AbideError } from '../suppression/errors.ts';
import { CHANNELS, isChannel } from '../suppression/scope.ts';
import type { Channel } from '../suppression/scope.ts';
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
import { applyInHalves, eachOutcome, nameOf } from './contract/outcomes.ts';
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
import type { Dialect, OwnTables, Statement } from './contract/own-statements.ts';
import { coded, lineFailed } from './contract/line-failed.ts';
import { untilAborted } from './contract/until-aborted.ts';

const CONNECT_TIMEOUT_MS = 5_000;
const DISPOSE_WAIT_MS = 1_000;
const SCAN_PAGE = 10_000;
const IDLE_MAX = 2;
/** Half of what a max_allowed_packet may be set to in earnest: no batch fails for its size. */
const TEXT_BYTES_MAX = 512 * 1024;
// An index entry may have 3,072 bytes, and a character of utf8mb4 counts as four of them, whatever it needs.
const KEY_CHARACTERS_MAX = 760;
/** Less, since the name of the store is beside it. */
const VERSIONED_KEY_CHARACTERS_MAX = 740;

// --- options

const SSL_MODES = ['DISABLED', 'REQUIRED', 'VERIFY_CA', 'VERIFY_IDENTITY'] as const;

/** `?ssl-mode=…&ssl-ca=…`, in the words of MySQL's own clients; undefined: without TLS. */
function readTls(url: string): SslOptions | undefined {
  const { searchParams } = new URL(url);
  const mode = searchParams.get('ssl-mode') ?? 'DISABLED';
  const ca = searchParams.get('ssl-ca');
  if (mode === 'DISABLED') return undefined;
  return {
    rejectUnauthorized: mode !== 'REQUIRED',
    verifyIdentity: mode === 'VERIFY_IDENTITY',
    ...(ca === null ? {} : { ca: readFileSync(ca, 'utf8') }),
  };
}

/** What is wrong with the URL; a mistyped parameter must not end in a connection without TLS. */
function* faultsOf(url: string): Generator<string> {
  const { hostname, pathname, searchParams } = new URL(url);
  if (!/^\/[^/]+$/.test(pathname)) yield 'must name the database as its path';
  for (const [name, value] of searchParams) {
    if (name === 'ssl-ca') {
      try {
        readFileSync(value);
      } catch {
        yield 'names an ssl-ca that cannot be read';
      }
    } else if (name !== 'ssl-mode') yield 'may have the parameters ssl-mode and ssl-ca only';
    else if (!SSL_MODES.some((mode) => mode === value))
      yield `ssl-mode must be one of ${SSL_MODES.join(', ')}`;
  }
  try {
    placeOf(url);
  } catch {
    yield 'has a % that does not begin an escape: write %25';
  }
  // For a number as host the client library passes no name, and Node then compares with localhost.
  if (searchParams.get('ssl-mode') === 'VERIFY_IDENTITY' && isIP(hostname.replace(/^\[|\]$/g, '')) !== 0) {
    yield 'ssl-mode=VERIFY_IDENTITY needs the name of the host, not its address';
  }
  const isVerified = searchParams.get('ssl-mode')?.startsWith('VERIFY') ?? false;
  if (searchParams.has('ssl-ca') && !isVerified) yield 'ssl-ca needs an ssl-mode that verifies';
}

// What may hold a colon or a question mark without meaning a parameter: '' and "" texts, `` names, comments (two hyphens
// begin one only before a space or a control character; what stands in /*! */ is run); := assigns. Then :name, and ?.
const DIALECT: Dialect = {
  token:
    // eslint-disable-next-line no-control-regex -- as the server's own lexer has it
    /'(?:[^'\\]|\\[\s\S]|'')*'|"(?:[^"\\]|\\[\s\S]|"")*"|`(?:[^`]|``)*`|--(?=[\s\0-\x1f\x7f]|$)[^\n]*|#[^\n]*|\/\*(?!M?!)[\s\S]*?\*\/|:=|:(?<name>[A-Za-z_]\w*)|(?<foreign>\?)/g,
  place(parameters, parameter) {
    parameters.push(parameter);
    return '?';
  },
};

/** Rewrites named parameters to positional ones. A placeholder cannot be used twice here: its value is given twice. */
export const positional = (sql: string): Statement => readStatement(sql, DIALECT);

const options = z
  .strictObject({
    url: z
      .url({ protocol: /^(mysql|mariadb)$/, error: 'must be a mysql:// or mariadb:// URL', abort: true })
      .check((context) => {
        for (const message of faultsOf(context.value)) {
          context.issues.push({ code: 'custom', message, input: context.value });
        }
      })
      .describe(
        'URL of the primary with the database as its path, never a replica; TLS by ?ssl-mode=VERIFY_IDENTITY, VERIFY_CA or REQUIRED, and ssl-ca=FILE',
      ),
    table: z
      .string()
      .regex(/^[^.\0]{1,64}(\.[^.\0]{1,64})?$/, 'must be a table or database.table')
      .optional()
      .describe(
        "Table in Abide's own shape, created if missing, or database.table in a database that is there (default: suppressions)",
      ),
    statements: statementsOption(
      DIALECT,
      'Writes one subject: :key :kind :version :email :sms :push :scopes :effective_at; 1 suppresses, 0 was lifted by the person, null leaves it as it is',
      'Reads one subject by :key and :kind: columns email, sms, push (1, 0 or null); optional: scopes (JSON), version',
    ),
    statement_timeout_ms: z
      .int()
      .min(1_000)
      .default(10_000)
      .describe(
        'The server itself ends a read, or the wait for a lock, after this long; MariaDB ends every statement',
      ),
  })
  .refine(isOnePlace, NOT_ONE_PLACE);

export const quoted = (name: string): string =>
  name
    .split('.')
    .map((part) => `\`${part.replaceAll('`', '``')}\``)
    .join('.');

const placeOf = (url: string) => {
  const { hostname, port, pathname, username, password } = new URL(url);
  return {
    host: hostname.replace(/^\[(.*)\]$/, '$1'),
    port: port === '' ? 3306 : Number(port),
    database: decodeURIComponent(pathname.slice(1)),
    user: decodeURIComponent(username),
    password: decodeURIComponent(password),
  };
};

/** What the client library needs for this URL. */
export function connectionTo(url: string) {
  const tls = readTls(url);
  return {
    ...placeOf(url),
    charset: 'utf8mb4_bin',
    jsonStrings: true,
    maxPreparedStatements: 100,
    connectTimeout: CONNECT_TIMEOUT_MS,
    ...(tls === undefined ? {} : { ssl: tls }),
  } satisfies ConnectionOptions;
}

// --- the table of our own shape

// Binary collation: two keys that differ in case or accent are two people. It ignores spaces at the end, and keys with those are
// refused. Times are UTC whatever the server's time zone is, and do not end in the year 2038.
const makeTable = (table: string): string => `
  create table if not exists ${table} (
    kind varchar(10) character set ascii collate ascii_bin not null,
    \`key\` varchar(${KEY_CHARACTERS_MAX}) character set utf8mb4 collate utf8mb4_bin not null,
    version bigint,
    email boolean,
    sms boolean,
    push boolean,
    scopes json not null default (json_object()),
    effective_at datetime(3),
    updated_at datetime(3) not null default (utc_timestamp(3)),
    primary key (kind, \`key\`)
  ) engine = InnoDB row_format = dynamic`;

const KEY_COLUMNS = `
  kind varchar(10) character set ascii collate ascii_bin path '$.kind',
  name varchar(${KEY_CHARACTERS_MAX}) character set utf8mb4 collate utf8mb4_bin path '$.key'`;

// `on duplicate key update` assigns from left to right, and each assignment reads what those before it wrote: the version, by which
// all others decide, comes last. An equal version suppresses what is missing and clears nothing, since no grant of a decision is
// newer than the decision itself. A grant's version stands beside each item, in one column per scope that is lifted anywhere in the
// batch; the patch that lifts such a scope is a parameter.
const applyTo = (table: string, lifted: number): string => {
  const held = `coalesce(${table}.version, 0)`;
  const missing = CHANNELS.map((channel) => `(item.${channel} = 1 and ${table}.${channel} is not true)`);
  const lifts = Array.from({ length: lifted }, (_, n) => n);
  return `
  insert into ${table} (kind, \`key\`, version, email, sms, push, scopes, effective_at, updated_at)
  select item.kind, item.name, item.at_version, item.email, item.sms, item.push,
    json_merge_patch('{}', item.scopes_told), item.since, utc_timestamp(3)
  from json_table(?, '$[*]' columns (${KEY_COLUMNS},
    at_version bigint path '$.version',
    since datetime(3) path '$.since',
    ${CHANNELS.map((name) => `${name} tinyint path '$.${name}', ${name}_lift bigint path '$.${name}_lift',`).join(' ')}
    ${lifts.map((n) => `lift_${n} bigint path '$.lift_${n}',`).join(' ')}
    scopes_told text path '$.scopes_told',
    scopes_suppressed text path '$.scopes_suppressed')) as item
  on duplicate key update
    updated_at = case when item.at_version > ${held} or (item.at_version = ${held} and (
        ${missing.join(' or ')} or not json_contains(${table}.scopes, item.scopes_suppressed)))
      then utc_timestamp(3) else ${table}.updated_at end,
    scopes = case when item.at_version < ${held} then ${table}.scopes
      else json_merge_patch(${table}.scopes, item.scopes_suppressed
        ${lifts.map((n) => `, case when ${held} < item.lift_${n} then ? else '{}' end`).join('')}) end,
    ${CHANNELS.map(
      (name) => `
    ${name} = case when item.at_version < ${held} then ${table}.${name} when item.${name} = 1 then true
      when ${held} < item.${name}_lift then false else ${table}.${name} end`,
    ).join(',')},
    effective_at = case when item.at_version > ${held} then item.since else ${table}.effective_at end,
    version = greatest(${held}, item.at_version)`;
};

const HELD = 'version, email, sms, push, scopes';

const readFrom = (table: string): string => `
  select @@global.read_only as read_only, held.kind is not null as is_there,
    held.version, held.email, held.sms, held.push, held.scopes
  from json_table(?, '$[*]' columns (at for ordinality, ${KEY_COLUMNS})) as wanted
  left join ${table} as held on held.kind = wanted.kind and held.\`key\` = wanted.name
  order by wanted.at`;

// Comparing (kind, key) pairs would read the whole table, so a page is of one kind.
const listFrom = (table: string, isFirst: boolean): string => `
  select kind, \`key\`, ${HELD} from ${table}
  where kind = ? ${isFirst ? '' : 'and `key` > ?'} order by \`key\` limit ${SCAN_PAGE}`;

const LOOK = `
  select collation_name as made_with from information_schema.columns
  where table_schema = coalesce(?, database()) and table_name = ? and column_name = 'key'`;

// --- versions beside the user's own tables

const VERSIONS = 'abide_versions';
const MAKE_VERSIONS = `
  create table if not exists ${VERSIONS} (
    store varchar(63) character set ascii collate ascii_bin not null,
    kind varchar(10) character set ascii collate ascii_bin not null,
    \`key\` varchar(${VERSIONED_KEY_CHARACTERS_MAX}) character set utf8mb4 collate utf8mb4_bin not null,
    version bigint not null,
    primary key (store, kind, \`key\`)
  ) engine = InnoDB row_format = dynamic`;
// Locks the rows in the order of the items, including those that it leaves as they are; a version of 0 changes none.
const RAISE_VERSIONS = `
  insert into ${VERSIONS} (store, kind, \`key\`, version)
  select ?, item.kind, item.name, item.at_version
  from json_table(?, '$[*]' columns (${KEY_COLUMNS}, at_version bigint path '$.version')) as item
  on duplicate key update version = greatest(${VERSIONS}.version, item.at_version)`;
const READ_VERSIONS = `
  select @@global.read_only as read_only, wanted.kind, wanted.name as \`key\`, held.version
  from json_table(?, '$[*]' columns (${KEY_COLUMNS})) as wanted
  left join ${VERSIONS} as held on held.store = ? and held.kind = wanted.kind and held.\`key\` = wanted.name`;
const FORGET_UNUSED = `delete from ${VERSIONS} where store = ? and kind = ? and \`key\` = ? and version = 0`;

// --- another store in the same place

// One row that is nobody's stands beside the others: emptying the table takes it away, and nothing else tells of that. The server
// (another one after a failover) and the time at which the table was made (again, when a dump is restored) go with it.
type Marker = { readonly set: string; readonly get: string; readonly values: readonly string[] };
const markerIn = (table: string): Marker => ({
  set: `
    insert into ${table} (kind, \`key\`, scopes) values ('abide', 'marker', json_object('marker', uuid()))
    on duplicate key update version = version`,
  get: `
    select json_unquote(json_extract(scopes, '$.marker')) as marker from ${table}
    where kind = 'abide' and \`key\` = 'marker'`,
  values: [],
});
/** Each store has its own marker: its versions may go without those of the others. */
const markerOfVersions = (store: string): Marker => ({
  set: `
    insert into ${VERSIONS} (store, kind, \`key\`, version) values (?, 'abide', 'marker', 1 + floor(rand() * 9e15))
    on duplicate key update version = version`,
  get: `select version as marker from ${VERSIONS} where store = ? and kind = 'abide' and \`key\` = 'marker'`,
  values: [store],
});
const SERVER = `show global variables where variable_name in ('server_uuid', 'server_uid')`;
const MADE = `
  select cast(create_time as char) as made from information_schema.tables
  where table_schema = coalesce(?, database()) and table_name = ?`;

// --- connections

// What only one of the two servers knows stands in a comment that only that one reads. A statement must neither depend on what the
// server was set to (modes, time zone) nor wait for its defaults (a day, for a table's own lock).
const settings = (timeoutMs: number): string => {
  const seconds = Math.ceil(timeoutMs / 1_000);
  return `set session /*M! max_statement_time = ${timeoutMs / 1_000}, */ /*!80000 max_execution_time = ${timeoutMs},
      information_schema_stats_expiry = 0, */
    innodb_lock_wait_timeout = ${seconds}, lock_wait_timeout = ${seconds},
    sql_mode = 'STRICT_ALL_TABLES,NO_ENGINE_SUBSTITUTION', time_zone = '+00:00', autocommit = 1`;
};
/** Writing goes without gap locks: two writers of new people do not stand in each other's way. Reading has one snapshot. */
type Isolation = 'read committed' | 'repeatable read';

type ServerError = Error & { readonly errno: number; readonly sqlState: string };
const isOfServer = (error: unknown): error is ServerError =>
  error instanceof Error && 'sqlState' in error && 'errno' in error && typeof error.errno === 'number';

// About one item's values: classes 22 and 23, what a trigger (45) or a view (44) of the user's refuses, and what MySQL has in none
// of these classes: a value that is cut or does not fit, a check. An ambiguous column is in 23, but is the statement's fault.
const OF_VALUES: readonly number[] = [1265, 1366, 1369, 3819];
const AMBIGUOUS = 1052;
const refusalCodeOf = (error: unknown): string | undefined => {
  if (!isOfServer(error) || error.errno === AMBIGUOUS) return undefined;
  const isOfValues = /^(2[23]|4[45])/.test(error.sqlState) || OF_VALUES.includes(error.errno);
  return isOfValues ? `ERROR_${error.errno}` : undefined;
};

/** Lock wait, statement time of MySQL and of MariaDB. */
const TIMEOUTS: readonly number[] = [1205, 3024, 1969];
/** Too many connections, no entry, no such database, shutting down, blocked, killed, thrown out for idleness. */
const UNREACHABLE: readonly number[] = [
  1040, 1044, 1045, 1049, 1053, 1129, 1130, 1203, 1226, 1698, 1820, 1927, 3159, 4031,
];

function failure(error: unknown, signal: AbortSignal): unknown {
  if (signal.aborted) return signal.reason;
  if (error instanceof AbideError) return error;
  if (!isOfServer(error)) {
    return lineFailed('MySQL', error);
  }
  const meaning = MEANINGS[error.errno];
  const told = `MySQL answered error ${error.errno} (SQLSTATE ${error.sqlState})${meaning === undefined ? '' : `: ${meaning}`}.`;
  const options = { cause: coded(`${error.errno}`) };
  if (TIMEOUTS.includes(error.errno)) return new AbideError('STORE_TIMEOUT', told, options);
  return new AbideError(
    UNREACHABLE.includes(error.errno) ? 'STORE_UNREACHABLE' : 'STORE_FAILED',
    told,
    options,
  );
}

/**
 * A few connections for one purpose. A call that fails or is aborted takes its connection with it, by its socket: what the client
 * library calls destroying waits for the other side. A statement in flight then ends by the server's time limit.
 */
function openLine(
  config: ConnectionOptions & { host: string; port: number },
  isolation: Isolation,
  timeoutMs: number,
  table: Table,
  log: Log,
) {
  type Open = { readonly connection: Connection; readonly socket: Socket };
  const sockets = new Set<Socket>();
  const idle: Open[] = [];
  let isClosed = false;

  async function open(signal: AbortSignal): Promise<Open> {
    const socket = connect(config.port, config.host).setNoDelay(true).setKeepAlive(true);
    sockets.add(socket);
    socket.once('close', () => sockets.delete(socket));
    const made = mysql.createConnection({ ...config, stream: () => socket }).then(async (connection) => {
      // The query in flight reports the loss; without a listener the process would end.
      connection.on('error', ({ code, errno }: { code?: string; errno?: number }) => {
        const at = idle.findIndex((one) => one.socket === socket);
        if (at < 0) return;
        idle.splice(at, 1);
        log.warn(
          { code: code ?? errno },
          'an idle connection to MySQL was lost; the next call opens another',
        );
      });
      await connection.query(settings(timeoutMs));
      await connection.query(`set session transaction isolation level ${isolation}`);
      return { connection, socket };
    });
    try {
      return await untilAborted(made, signal);
    } catch (error) {
      socket.destroy();
      throw error;
    }
  }

  return {
    async run<T>(signal: AbortSignal, work: (connection: Connection) => Promise<T>): Promise<T> {
      signal.throwIfAborted();
      let used: Open | undefined;
      try {
        used = idle.pop() ?? (await open(signal));
        const result = await untilAborted(work(used.connection), signal);
        // Kept open: a new connection would cost the next single decision its milliseconds.
        if (isClosed || idle.length >= IDLE_MAX) used.socket.destroy();
        else idle.push(used);
        return result;
      } catch (error) {
        used?.socket.destroy();
        // The missing table may be ours. The look at what the store is comes too seldom, and not at all while it fails.
        if (isOfServer(error) && error.errno === NO_TABLE) table.forget();
        throw failure(error, signal);
      }
    },
    async close(): Promise<void> {
      isClosed = true;
      const farewells = Promise.all(idle.splice(0).map(({ connection }) => connection.end()));
      await untilAborted(farewells, AbortSignal.timeout(DISPOSE_WAIT_MS)).catch(() => undefined);
      for (const socket of sockets) socket.destroy();
    },
  };
}

// --- rows

type HeldRow = {
  readonly version?: number | string | null;
  /** MariaDB's JSON is text, and so is MySQL's with `jsonStrings`. */
  readonly scopes?: string | Buffer | null;
} & Readonly<Record<Channel, number | Buffer | null>>;
type ReadRow = HeldRow & { readonly read_only: number | string; readonly is_there: number };

function scopesOf({ scopes }: HeldRow): Readonly<Record<string, unknown>> {
  try {
    const parsed = (JSON.parse(String(scopes ?? null)) ?? {}) as Readonly<Record<string, unknown>>;
    // A list names no scope: its first entry is not one that is called 0.
    return Array.isArray(parsed) ? {} : parsed;
  } catch {
    // Without the cause, which quotes the text.
    throw new AbideError('STORE_FAILED', 'What the store holds as scopes is not JSON.');
  }
}

const toVersion = (version: HeldRow['version']): number | undefined =>
  version === null || version === undefined ? undefined : Number(version);

/** A BIT(1) comes as a byte. */
const isTrue = (value: number | Buffer | null): boolean =>
  value === 1 || (Buffer.isBuffer(value) && value.length === 1 && value[0] === 1);

function toHeld(row: HeldRow): Held {
  const scopes = scopesOf(row);
  return {
    version: toVersion(row.version),
    suppressed: [
      ...CHANNELS.filter((channel) => isTrue(row[channel])),
      ...Object.keys(scopes).filter((scope) => scopes[scope] === true),
    ],
  };
}

const toDatetime = (instant: string): string => instant.replace('T', ' ').replace('Z', '');

const toJson = (keys: readonly SubjectKey[]): string =>
  JSON.stringify(keys.map(({ kind, key }) => ({ kind, key })));

/** An item as JSON_TABLE reads it. What is not told is left out, and is null there. */
function toRow(item: Item, lifted: readonly string[]): object {
  const { kind, key, version, suppressed, granted } = item;
  const liftOf = (scope: string) => (scope in suppressed ? undefined : granted[scope]?.version);
  const others = Object.keys(suppressed).filter((scope) => !isChannel(scope));
  const isSuppressed = Object.fromEntries(others.map((scope) => [scope, true]));
  const isLifted = lifted.filter((scope) => liftOf(scope) !== undefined).map((scope) => [scope, false]);
  return {
    kind,
    key,
    version,
    since: toDatetime(item.effectiveAt),
    ...Object.fromEntries(
      CHANNELS.flatMap((channel) => {
        if (channel in suppressed) return [[channel, 1]];
        const lift = liftOf(channel);
        return lift === undefined
          ? []
          : [
              [channel, 0],
              [`${channel}_lift`, lift],
            ];
      }),
    ),
    ...Object.fromEntries(lifted.map((scope, n) => [`lift_${n}`, liftOf(scope)])),
    scopes_told: JSON.stringify({ ...Object.fromEntries(isLifted), ...isSuppressed }),
    scopes_suppressed: JSON.stringify(isSuppressed),
  };
}

const refusalOf = ({ key }: SubjectKey, charactersMax: number): ApplyOutcome | undefined => {
  if (key.includes('\0') || key.endsWith(' ') || !key.isWellFormed()) {
    return { kind: 'refused', code: 'KEY_NOT_TEXT' };
  }
  const isTooLong = key.length > charactersMax && [...key].length > charactersMax;
  return isTooLong ? { kind: 'refused', code: 'KEY_TOO_LONG' } : undefined;
};

/** In one order, in which all batches take their row locks, and in parts that fit into a packet. */
function* partsOf(items: readonly Item[]): Generator<readonly Item[]> {
  const sorted = [...items].sort((a, b) => (nameOf(a) < nameOf(b) ? -1 : 1));
  let part: Item[] = [];
  let bytes = 0;
  for (const item of sorted) {
    const scopes = Object.keys(item.suppressed).length + Object.keys(item.granted).length;
    // What stands around the key and its scopes, estimated generously; a character may be escaped to six bytes.
    const size = 200 + 6 * item.key.length + 250 * scopes;
    if (part.length > 0 && bytes + size > TEXT_BYTES_MAX) {
      yield part;
      [part, bytes] = [[], 0];
    }
    part.push(item);
    bytes += size;
  }
  if (part.length > 0) yield part;
}

/**
 * A replica may be set to take writes, and nothing that every role may ask for tells it from a primary. A server that is meant only
 * to be read says so, as does a primary that is being taken out of service; MariaDB 12 says it in words.
 */
function refuseReadOnly(readOnly: number | string | undefined): void {
  if (readOnly === undefined || [0, '0', 'OFF'].includes(readOnly)) return;
  throw new AbideError(
    'STORE_FAILED',
    'This MySQL is read-only, like a replica: it may show less than the primary.',
  );
}

const rowsOf = async <Row>(
  connection: Connection,
  sql: string,
  values: readonly (string | null)[],
): Promise<Row[]> => {
  const [rows] = await connection.execute<RowDataPacket[]>(sql, [...values]);
  return rows as Row[];
};

// --- `abide config check`

/** What the server's own words would say; they are left out, since they may quote values. */
const MEANINGS: Readonly<Record<number, string>> = {
  1040: 'it has no connections left',
  1044: 'not allowed to this user in this database',
  1045: 'the user or password is wrong',
  1048: 'a column that must not be null is left null',
  1049: 'no such database',
  1052: 'a column name that two tables have',
  1054: 'no such column',
  1062: 'a row that already exists: add an on duplicate key clause',
  1064: 'a syntax error',
  1130: 'this host may not connect',
  1136: 'more or fewer values than columns',
  1142: 'not allowed to this user',
  1143: 'not allowed to this user for a column',
  1146: 'no such table',
  1196: 'a table without transactions keeps the change: make it InnoDB',
  1264: 'a number that its column cannot hold',
  1267: 'two different collations: name one',
  1305: 'no such function or procedure',
  1364: 'a column without a default is left out',
  1366: 'a value that its column cannot hold',
  1370: 'not allowed to this user',
  1406: 'a text that is too long for its column',
  1452: 'a foreign key without its row',
  1698: 'the user or password is wrong',
};
const NO_COLUMN = 1060;
const NO_TABLE = 1146;
const NOT_TAKEN_BACK = 1196;

const wrong = (what: string, errno: number): AbideError =>
  new AbideError('STORE_FAILED', `${what}: ${MEANINGS[errno] ?? 'MySQL refuses it'} (error ${errno}).`);

/** Says what is wrong, and with what. */
async function named<T>(what: string, work: Promise<T>, expected?: number): Promise<T | undefined> {
  try {
    return await work;
  } catch (error) {
    if (!isOfServer(error)) throw error;
    if (error.errno === expected) return undefined;
    if (MEANINGS[error.errno] === undefined && UNREACHABLE.includes(error.errno)) throw error;
    throw wrong(what, error.errno);
  }
}

// --- transactions and tables

type Line = ReturnType<typeof openLine>;
type Table = ReturnType<typeof openTable>;
type Lines = {
  readonly writing: Line;
  readonly reading: Line;
  readonly table: Table;
  /** How long the server keeps a transaction, and its locks, once it hears no more of it: by default, eight hours. */
  readonly idleSeconds: number;
};

async function begin(connection: Connection, { idleSeconds }: Lines, how = 'start transaction') {
  await connection.query(`set session wait_timeout = ${idleSeconds}`);
  await connection.query(how);
}

/** Between transactions a connection may be idle for as long as the server likes. */
async function end(connection: Connection, how: 'commit' | 'rollback'): Promise<ResultSetHeader> {
  const [result] = await connection.query<ResultSetHeader>(how);
  await connection.query('set session wait_timeout = default');
  return result;
}

/** A table that the first write makes and marks. */
function openTable(name: string, statement: string, marker: Marker) {
  const [ownName, database] = name.split('.').reverse() as [string, string?];
  let isMarked = false;
  let seen = false;

  /** Whether the table is there, as it must be. It is looked for first: a role that may not create tables can use a made one. */
  async function isThere(connection: Connection): Promise<boolean> {
    if (seen) return true;
    const [found] = await rowsOf<{ made_with: string }>(connection, LOOK, [database ?? null, ownName]);
    if (found !== undefined && found.made_with !== 'utf8mb4_bin') {
      throw new AbideError(
        'STORE_FAILED',
        `The column key of table ${name} has the collation ${found.made_with}, which takes two different keys for the same: make it utf8mb4_bin.`,
      );
    }
    return (seen = found !== undefined);
  }

  /** The next call looks for it anew: if it was dropped, the next write makes and marks it again. */
  function forget(): void {
    seen = isMarked = false;
  }

  return {
    name,
    /** Reading makes nothing: without a table, nobody is held. */
    isThere,
    forget,
    async make(connection: Connection): Promise<void> {
      if (!(await isThere(connection))) {
        await connection.query(statement);
        isMarked = false;
      }
      if (!isMarked) await connection.execute(marker.set, [...marker.values]);
      isMarked = true;
    },
    async incarnation(connection: Connection): Promise<string | null> {
      forget();
      if (!(await isThere(connection))) return null;
      const [row] = await rowsOf<{ marker: string | number | null }>(connection, marker.get, marker.values);
      isMarked = row !== undefined;
      if (row === undefined) return null;
      const [[server], [found]] = [
        (await connection.query<RowDataPacket[]>(SERVER))[0] as { Value: string }[],
        await rowsOf<{ made: string }>(connection, MADE, [database ?? null, ownName]),
      ];
      return [server?.Value, found?.made, row.marker].join('/');
    },
  };
}

/**
 * In a transaction that is rolled back. Making a table cannot be taken back here: if there is none, every right is tried by a
 * statement that can only fail, because of a column that stands twice or a table that is not there.
 */
const rehearse = (
  lines: Lines,
  signal: AbortSignal,
  work: (connection: Connection, absent: number | undefined) => Promise<void>,
) =>
  lines.writing.run(signal, async (connection) => {
    const { name, isThere } = lines.table;
    const [state] = await rowsOf<{ read_only: number | string }>(
      connection,
      'select @@global.read_only as read_only',
      [],
    );
    refuseReadOnly(state?.read_only);
    const there = await isThere(connection);
    if (!there) {
      const [database, table] = name.split('.') as [string, string?];
      // The statement after this one fails for its column before it is asked where it would create.
      if (table !== undefined) {
        const look = connection.query(`show tables from ${quoted(database)} like ''`);
        await named(`table ${name}, create`, look);
      }
      const twice = connection.query(`create table ${quoted(name)} (a int, a int)`);
      await named(`table ${name}, create`, twice, NO_COLUMN);
    }
    await begin(connection, lines);
    await work(connection, there ? undefined : NO_TABLE);
    const { warningStatus } = await end(connection, 'rollback');
    if (warningStatus > 0) throw wrong('what was tried', NOT_TAKEN_BACK);
  });

function ownTable(lines: Lines): Omit<Store, typeof Symbol.asyncDispose> {
  const { writing, reading, table } = lines;
  const name = quoted(table.name);
  const read = readFrom(name);

  function write(connection: Connection, items: readonly Item[]) {
    const lifted = [...new Set(items.flatMap(({ granted }) => Object.keys(granted)))].filter(
      (scope) => !isChannel(scope),
    );
    const patches = lifted.map((scope) => JSON.stringify({ [scope]: false }));
    const text = JSON.stringify(items.map((item) => toRow(item, lifted)));
    return connection.execute(applyTo(name, lifted.length), [text, ...patches]);
  }

  return {
    apply: (batch, signal) =>
      eachOutcome(
        batch,
        (item) => refusalOf(item, KEY_CHARACTERS_MAX),
        (items) =>
          writing.run(signal, async (connection) => {
            const newer = new Set<Item>();
            await table.make(connection);
            const writeParts = async (some: readonly Item[]): Promise<void> => {
              for (const part of partsOf(some)) {
                await write(connection, part);
                const rows = await rowsOf<ReadRow>(connection, read, [toJson(part)]);
                part.forEach((item, n) => {
                  if ((toVersion(rows[n]?.version) ?? 0) > item.version) newer.add(item);
                });
              }
            };
            const refused = await applyInHalves(items, writeParts, refusalCodeOf);
            return (item) => refused.get(item) ?? { kind: newer.has(item) ? 'already_newer' : 'applied' };
          }),
      ),

    readBack: (keys, signal) =>
      reading.run(signal, async (connection) => {
        if (!(await table.isThere(connection))) return keys.map(() => undefined);
        const rows = await rowsOf<ReadRow>(connection, read, [toJson(keys)]);
        refuseReadOnly(rows[0]?.read_only);
        return rows.map((row) => (row.is_there === 1 ? toHeld(row) : undefined));
      }),

    check: (items, signal) =>
      rehearse(lines, signal, async (connection, absent) => {
        await named(`table ${table.name}, insert and update`, write(connection, items), absent);
        await named(`table ${table.name}, select`, rowsOf(connection, read, [toJson(items)]), absent);
      }),

    scan: (after, signal) =>
      reading.run(signal, async (connection) => {
        if (!(await table.isThere(connection))) return [];
        const kinds = [...SUBJECT_KINDS].sort().filter((kind) => after === undefined || kind >= after.kind);
        for (const kind of kinds) {
          const isFirst = kind !== after?.kind;
          const values = isFirst ? [kind] : [kind, after.key];
          const rows = await rowsOf<HeldRow & SubjectKey>(connection, listFrom(name, isFirst), values);
          if (rows.length > 0)
            return rows.map((row) => ({ kind: row.kind, key: row.key, held: toHeld(row) }));
        }
        return [];
      }),
  };
}

/** By the protocol's numbers: whole numbers and bits; texts, which include JSON. */
const BOOLEAN_TYPES: readonly (number | undefined)[] = [1, 2, 3, 8, 9, 16];
const JSON_TYPES: readonly (number | undefined)[] = [15, 245, 249, 250, 251, 252, 253, 254];

/** The user's own tables: the versions go set-based, the user's statements one item at a time. */
function ownStatements(
  statements: { readonly apply: string; readonly read_back: string },
  { name: store, scopes }: Pick<ConnectorContext, 'name' | 'scopes'>,
  lines: Lines,
): Omit<Store, typeof Symbol.asyncDispose> {
  const { writing, reading, table } = lines;
  const apply = positional(statements.apply);
  const read = positional(statements.read_back);

  async function raise(connection: Connection, items: readonly Item[], versionOf: (item: Item) => number) {
    for (const part of partsOf(items)) {
      const rows = part.map((item) => ({ kind: item.kind, key: item.key, version: versionOf(item) }));
      await connection.execute(RAISE_VERSIONS, [store, JSON.stringify(rows)]);
    }
  }
  async function versionsOf(connection: Connection, keys: readonly SubjectKey[]) {
    const rows = await rowsOf<SubjectKey & { version: number | null; read_only: number | string }>(
      connection,
      READ_VERSIONS,
      [toJson(keys), store],
    );
    return { rows, versions: new Map(rows.map((row) => [nameOf(row), row.version ?? undefined])) };
  }
  async function readRows(connection: Connection, { kind, key }: SubjectKey) {
    const values: Partial<Record<string, string>> = { kind, key };
    const [rows, fields] = await connection.execute<RowDataPacket[]>(
      read.text,
      read.parameters.map((parameter) => values[parameter] ?? null),
    );
    return { rows: rows as HeldRow[], fields };
  }

  const tablesOn = (connection: Connection): OwnTables => ({
    begin: () => begin(connection, lines),
    run: (words) => (words === 'commit' ? end(connection, words) : connection.query(words)),
    async lock(items) {
      await raise(connection, items, () => 0);
      const held = new Map<string, number>();
      for (const part of partsOf(items)) {
        for (const [name, version] of (await versionsOf(connection, part)).versions) {
          held.set(name, version ?? 0);
        }
      }
      return held;
    },
    keep: (items) => raise(connection, items, ({ version }) => version),
    async forget(items) {
      for (const { kind, key } of items) await connection.execute(FORGET_UNUSED, [store, kind, key]);
    },
    async apply(values) {
      const told = { ...values, effective_at: toDatetime(String(values.effective_at)) };
      const [result] = await connection.execute<ResultSetHeader | RowDataPacket[]>(
        apply.text,
        apply.parameters.map((parameter) => told[parameter]),
      );
      return Array.isArray(result) ? result.length : result.affectedRows;
    },
    readBack: async (key) => (await readRows(connection, key)).rows.map(toHeld),
    holdsOtherScopes: apply.parameters.includes('scopes'),
    keepsVersions: apply.parameters.includes('version'),
    refusalOf: refusalCodeOf,
  });

  return {
    check: (items, signal) =>
      rehearse(lines, signal, async (connection, absent) => {
        const tables = tablesOn(connection);
        await named(`table ${VERSIONS}, insert and update`, tables.keep(items), absent);
        await named(`table ${VERSIONS}, select`, versionsOf(connection, items), absent);
        await named(`table ${VERSIONS}, delete`, tables.forget(items), absent);
        for (const item of items) {
          const found = await named('statements.read_back', readRows(connection, item));
          refuseColumns(scopes, { channel: 'boolean', scopes: 'JSON' }, (column, isScopes) => {
            const type = found?.fields.find((field) => field.name === column)?.columnType;
            return (isScopes ? JSON_TYPES : BOOLEAN_TYPES).includes(type);
          });
          await named('statements.apply', applyOne(tables, item, 0));
          await refuseLoss(tables, item);
        }
      }),

    apply: (batch, signal) =>
      eachOutcome(
        batch,
        (item) => refusalOf(item, VERSIONED_KEY_CHARACTERS_MAX),
        (items) =>
          writing.run(signal, async (connection) => {
            await table.make(connection);
            return applyToOwn(tablesOn(connection), items);
          }),
      ),

    readBack: (keys, signal) =>
      reading.run(signal, async (connection) => {
        if (!(await table.isThere(connection))) return keys.map(() => undefined);
        await begin(connection, lines, 'start transaction read only');
        const { rows, versions } = await versionsOf(connection, keys);
        refuseReadOnly(rows[0]?.read_only);
        const held = await readBackOwn(tablesOn(connection), keys, versions);
        await end(connection, 'commit');
        return held;
      }),
  };
}

export default defineConnector({
  options,
  accepts: SUBJECT_KINDS,
  topics: true,
  // Whether an answered write survives a crash depends on innodb_flush_log_at_trx_commit, which no session can set.
  versions: 'stored',
  remembersUnknown: true,
  evidence: 'read_back',
  limits: { batch: 1_000, concurrent: 2 },

  target({ url, table = 'suppressions', statements }) {
    const { host, port, database } = placeOf(url);
    const place = statements === undefined ? [table] : [statements.apply, statements.read_back];
    return [host, `${port}`, database, ...place];
  },

  place({ url, table = 'suppressions', statements }) {
    const { host, port, database } = placeOf(url);
    const place =
      statements === undefined
        ? [table.includes('.') ? table : `${database}.${table}`]
        : [database, statements.apply, statements.read_back];
    return [host, `${port}`, ...place];
  },

  open({ url, table: own = 'suppressions', statements, statement_timeout_ms }, { log, name, scopes }) {
    const config = connectionTo(url);
    const table =
      statements === undefined
        ? openTable(own, makeTable(quoted(own)), markerIn(quoted(own)))
        : openTable(VERSIONS, MAKE_VERSIONS, markerOfVersions(name));
    const writing = openLine(config, 'read committed', statement_timeout_ms, table, log);
    const reading = openLine(config, 'repeatable read', statement_timeout_ms, table, log);
    const lines = { writing, reading, table, idleSeconds: Math.ceil(statement_timeout_ms / 1_000) };
    return Promise.resolve({
      incarnation: (signal: AbortSignal) =>
        reading.run(signal, (connection) => table.incarnation(connection)),
      ...(statements === undefined ? ownTable(lines) : ownStatements(statements, { name, scopes }, lines)),
      async [Symbol.asyncDispose]() {
        await Promise.all([writing.close(), reading.close()]);
      },
    });
  },
});
