// The guard in MySQL and MariaDB: two triggers per table, which run as the role that installed them. Statements that change a
// schema have no transaction around them. So what is as it should be is left alone, what is made again is dropped just before, and
// what slipped in between is held down by the statements at the end.
import mysql from 'mysql2/promise';
import type { ResultSetHeader, RowDataPacket } from 'mysql2/promise';
import type { GuardedTable } from '../../config/configuration.ts';
import { connectionTo, quoted } from '../../connectors/mysql.ts';
import type { SubjectKind } from '../../suppression/subject-kind.ts';
import {
  ADDRESS,
  CHECKED,
  columnsOf,
  IS_VIEW,
  LOG_TABLE,
  LONGEST,
  nameOf,
  namesOf,
  NATIONAL_PREFIX,
  OTHERS_WRITE,
  OWN_ZERO,
  prefixOf,
  refuse,
  SPACES,
  statesOf,
} from './guarded-store.ts';
import type { Guard, GuardedColumn, GuardedStore, GuardState } from './guarded-store.ts';

const EVENTS = ['insert', 'update'] as const;
const TYPES = ['tinyint', 'smallint', 'int', 'bigint', 'bit'];
const SETTINGS = `set session sql_mode = 'STRICT_ALL_TABLES,NO_ENGINE_SUBSTITUTION', lock_wait_timeout = 10, time_zone = '+00:00'`;
/** Otherwise an installation that holds many down locks what it looks up, and the store takes no opt-out until it is done. */
const ISOLATION = 'set session transaction isolation level read committed';

const id = (name: string): string => quoted(name.replaceAll('.', '\0')).replaceAll('\0', '.');
/** Quotes names of ours and of the catalogue, which contain nothing that a literal would need escapes for. */
const text = (value: string): string => `'${value.replaceAll("'", "''")}'`;

const pattern = (regexp: string): string =>
  `convert(x'${Buffer.from(regexp).toString('hex')}' using utf8mb4)`;
const SPACES_AT_ENDS = pattern(`^[${SPACES}]+|[${SPACES}]+$`);
/** Letters that the server lowers one by one: I with a dot and sigma do not become what they should. */
const LOWERED_AMISS = pattern('[\u0130\u03a3]');
/**
 * Characters that NFC replaces, or may join to the one before them: of those with NFC_Quick_Check = No or Maybe in Unicode's
 * DerivedNormalizationProps.txt all, and for brevity the rest of three blocks. A test compares them with what Node's normalize does.
 */
const CHANGED_BY_NFC = [
  '\u0300-\u036f\u0374\u037e\u0387\u0653-\u0655\u093c\u0958-\u095f\u09be\u09d7\u09dc\u09dd\u09df\u0a33\u0a36\u0a59-\u0a5b\u0a5e',
  '\u0b3e\u0b56\u0b57\u0b5c\u0b5d\u0bbe\u0bd7\u0c56\u0cc2\u0cd5\u0cd6\u0d3e\u0d57\u0dca\u0dcf\u0ddf\u0f43\u0f4d\u0f52\u0f57\u0f5c',
  '\u0f69\u0f73\u0f75\u0f76\u0f78\u0f81\u0f93\u0f9d\u0fa2\u0fa7\u0fac\u0fb9\u102e\u1161-\u1175\u11a8-\u11c2\u1b35\u1f71\u1f73\u1f75',
  '\u1f77\u1f79\u1f7b\u1f7d\u1fbb\u1fbe\u1fc9\u1fcb\u1fd3\u1fdb\u1fe3\u1feb\u1fee\u1fef\u1ff9\u1ffb\u1ffd\u2000\u2001\u2126\u212a',
  '\u212b\u2329\u232a\u2adc\u3099\u309a\uf900-\ufaff\ufb1d-\ufb4e\u{110ba}\u{11127}\u{1133e}\u{11357}\u{113b8}\u{113bb}\u{113c2}',
  '\u{113c9}\u{114b0}\u{114ba}\u{114bd}\u{115af}\u{11930}\u{1611e}-\u{16120}\u{16129}\u{16d67}\u{1d15e}-\u{1d164}',
  '\u{1d1bb}-\u{1d1c0}\u{2f800}-\u{2fa1d}',
].join('');
/** Letters that the server left in capitals, and what NFC would not leave as it is. */
const NOT_NORMAL = pattern(`[[:upper:]${CHANGED_BY_NFC}]`);

/** UTF-8 in hexadecimal. Converting anything else fails the write if it is bytes, and matching half a surrogate pair always does. */
const UTF8 =
  '^([0-7].|C[2-9A-F][89AB].|D.[89AB].|E0[AB].[89AB].|E[1-9A-CEF]([89AB].){2}|ED[89].[89AB].|F0[9AB].([89AB].){2}|F[1-3]([89AB].){3}|F48.([89AB].){2})*+$';

/** The normal form of an address as far as SQL can make it; null if it cannot. Without backslashes, whatever sql_mode is. */
function normalForm(kind: SubjectKind, value: string): string {
  const trimmed = `regexp_replace(convert(${value} using utf8mb4), ${SPACES_AT_ENDS}, '')`;
  switch (kind) {
    case 'email': {
      // A domain that ends with the root's dot is the same domain; one beyond ASCII has an A-label, which SQL cannot make.
      const address = `trim(trailing '.' from ${trimmed})`;
      const domain = `substring_index(${address}, '@', -1)`;
      return `case when length(${domain}) = char_length(${domain}) then lower(${address}) end`;
    }
    case 'phone': {
      const digits = `concat('+', regexp_replace(${trimmed}, '[^0-9]', ''))`;
      const isNational = `${digits} regexp '${NATIONAL_PREFIX}' and not ${digits} regexp '${OWN_ZERO}'`;
      return `case when ${trimmed} regexp '^[+][0-9 ()./-]+$' and ${trimmed} not like '%(0)%' and not (${isNational}) then ${digits} end`;
    }
    case 'push_token':
    case 'person_id':
      return trimmed;
  }
}

type Place = { readonly schema: string; readonly name: string; readonly full: string };
/** A table of the user's, and what its key is: bytes without a character set, or made by the database. */
type Guarded = Place & { readonly isBytes: boolean; readonly isGenerated: boolean };

/** Null as well for what is not UTF-8. Characters that are all ASCII need no long look. */
const plainOf = ({ kind, key }: GuardedTable, { isBytes }: Guarded, row: string): string => {
  const value = `${row}.${id(key)}`;
  const given = `convert(${value} using utf8mb4)`;
  const isUtf8 = isBytes
    ? `hex(${value}) regexp '${UTF8}'`
    : `(length(${given}) = char_length(${given}) or hex(${given}) regexp '${UTF8}')`;
  return `case when char_length(${value}) <= ${LONGEST[kind]} and ${isUtf8} then ${normalForm(kind, value)} end`;
};

const keyOf = (store: GuardedStore, table: GuardedTable, place: Guarded, row: string): string => {
  const plain = plainOf(table, place, row);
  return `convert(${store.isHashed ? `sha2(${plain}, 256)` : plain} using utf8mb4) collate utf8mb4_bin`;
};

/** Whether SQL knows who it is. Only the count asks this, since nobody is found by a form that is not normal. */
const isRead = (table: GuardedTable, place: Guarded, row: string): string => {
  const plain = `convert(${plainOf(table, place, row)} using utf8mb4) collate utf8mb4_bin`;
  if (table.kind !== 'email') return `${plain} is not null`;
  const given = `convert(${row}.${id(table.key)} using utf8mb4) collate utf8mb4_bin`;
  return `coalesce(${plain} regexp ${pattern(ADDRESS)} and not ${plain} regexp ${NOT_NORMAL} and not ${given} regexp ${LOWERED_AMISS}, false)`;
};

/** Whether the store holds the person suppressed. */
const isHeld = (
  suppressions: string,
  { kind }: GuardedTable,
  { channel }: GuardedColumn,
  key: string,
): string =>
  `exists (select 1 from ${suppressions} as held where held.kind = ${text(kind)} and held.\`key\` = ${key} and held.${channel} = 1)`;

const isOther = (row: string, { column, held }: GuardedColumn): string =>
  `not (${row}.${id(column)} <=> ${held ? 1 : 0})`;

type Column = { readonly type: string; readonly extra: string; readonly isView: number };
const isGenerated = ({ extra }: Column): boolean => /(virtual|stored) generated/i.test(extra);

const UNSEEN =
  'triggers that this user cannot see may write to it. A user with the privilege `trigger` on the whole database may drop it';

type Trigger = {
  readonly schema: string;
  readonly name: string;
  /** Where the trigger is now: it goes with its table when that is renamed. */
  readonly on: string;
  readonly body: string;
  /** Whether the installing role made it. A trigger runs as the role that made it, which may be gone. */
  readonly isMine: number;
  readonly position: number;
};

export async function openMysqlGuard(store: GuardedStore): Promise<Guard> {
  const connection = await mysql.createConnection(connectionTo(store.url));
  connection.on('error', () => undefined);
  await connection.query(SETTINGS);
  await connection.query(ISOLATION);
  const rowsOf = async <Row>(sql: string, values: readonly (string | null)[] = []): Promise<Row[]> =>
    (await connection.execute<RowDataPacket[]>(sql, [...values]))[0] as Row[];
  const [session] = await rowsOf<{ own: string; folds: number; me: string }>(
    `select database() as own, @@lower_case_table_names as folds,
       concat('''', substring_index(current_user(), '@', 1), '''@''', substring_index(current_user(), '@', -1), '''') as me`,
  );
  const { own, folds, me } = session!;

  const placeOf = (table: string): Place => {
    const [name, schema = own] = table.split('.').reverse() as [string, string?];
    return { schema, name, full: `${id(schema)}.${id(name)}` };
  };

  /** The columns of a table and their types; undefined if it is not there. */
  async function find({ schema, name }: Place): Promise<ReadonlyMap<string, Column> | undefined> {
    const rows = await rowsOf<Column & { name: string }>(
      // Without an alias, MySQL names a column of this schema in capitals.
      `select column_name as name, data_type as type, extra as extra, table_type = 'VIEW' as isView
       from information_schema.columns join information_schema.tables using (table_schema, table_name)
       where table_schema = ? and table_name = ?`,
      [schema, name],
    );
    return rows.length === 0 ? undefined : new Map(rows.map((row) => [row.name, row]));
  }

  async function findSuppressions(): Promise<Place> {
    const place = placeOf(store.suppressions);
    if ((await find(place)) !== undefined) return place;
    throw refuse(
      `The store's own table ${store.suppressions} does not exist yet: the store's first opt-out makes it.`,
    );
  }

  /** A table of the user's with its columns checked. */
  async function findGuarded(table: GuardedTable): Promise<Guarded> {
    const place = placeOf(table.table);
    const columns = await find(place);
    if (columns === undefined) throw refuse(`There is no table ${table.table}.`);
    if ([...columns.values()].some(({ isView }) => isView === 1)) throw refuse(IS_VIEW(table.table));
    for (const column of [table.key, ...columnsOf(table).map((one) => one.column)]) {
      if (!columns.has(column)) throw refuse(`Table ${table.table} has no column ${column}.`);
    }
    for (const { column } of columnsOf(table)) {
      const is = columns.get(column)!;
      if (!TYPES.includes(is.type))
        throw refuse(
          `Column ${column} of table ${table.table} is ${is.type}: the guard sets columns that are boolean.`,
        );
      if (isGenerated(is))
        throw refuse(
          `Column ${column} of table ${table.table} is generated after every trigger: name what it is made from instead.`,
        );
    }
    const key = columns.get(table.key)!;
    return { ...place, isBytes: /binary|blob/.test(key.type), isGenerated: isGenerated(key) };
  }

  function bodyOf(table: GuardedTable, place: Guarded, suppressions: Place): string {
    const checks = columnsOf(table).map(
      (column) => `
  if ${isOther('new', column)} and ${isHeld(suppressions.full, table, column, 'who')} then
    set new.${id(column.column)} = ${column.held ? 1 : 0};
    insert into ${id(suppressions.schema)}.${LOG_TABLE} (table_name, kind, channel, \`key\`)
    values (${text(`${place.schema}.${place.name}`)}, ${text(table.kind)}, ${text(column.channel)}, who);
  end if;`,
    );
    return `begin
  declare who text character set utf8mb4 collate utf8mb4_bin default ${keyOf(store, table, place, 'new')};${checks.join('')}
end`;
  }

  /** Another installation on this server may have a store of the same name: its triggers write to a log of its own. */
  const logging = `insert into ${id(placeOf(store.suppressions).schema)}.${LOG_TABLE} `;
  const present = () =>
    rowsOf<Trigger>(
      `select trigger_schema as \`schema\`, trigger_name as name, action_statement as body,
         concat(event_object_schema, '.', event_object_table) as \`on\`,
         definer = current_user() as isMine, action_order as position
       from information_schema.triggers where locate('abide_guard_', trigger_name) = 1 and locate(?, action_statement) > 0`,
      [logging],
    );
  const prefixes = namesOf(store).map(prefixOf);
  const isOurs = ({ name }: Trigger): boolean => prefixes.some((prefix) => name.startsWith(prefix));
  /** Of a table without the right `trigger` nobody sees triggers: one that writes to a log that is gone fails the write. */
  async function seesAll(schema: string): Promise<boolean> {
    const rows = await rowsOf(
      `select 1 from information_schema.user_privileges where grantee = ? and privilege_type = 'TRIGGER'
       union select 1 from information_schema.schema_privileges
       where grantee = ? and privilege_type = 'TRIGGER' and ? like table_schema`,
      [me, me, schema],
    );
    return rows.length > 0;
  }

  /** The place of the last trigger that is not a guard's; 0 if there is none. */
  const lastOther = async ({ schema, name }: Place, event: string): Promise<number> => {
    const [row] = await rowsOf<{ last: number | null }>(
      `select max(action_order) as last from information_schema.triggers
       where event_object_schema = ? and event_object_table = ? and action_timing = 'BEFORE' and event_manipulation = ?
       and locate('abide_guard_', trigger_name) <> 1`,
      [schema, name, event.toUpperCase()],
    );
    return row?.last ?? 0;
  };
  /** A column is generated once, before all triggers: what one of theirs then makes of its source is not in it. */
  const isStale = (place: Guarded, last: number): boolean => place.isGenerated && last > 0;
  const isAsWanted = ({ on, body }: Trigger, { schema, name }: Place, wanted: string): boolean => {
    const place = `${schema}.${name}`;
    return body === wanted && (folds === 0 ? on === place : on.toLowerCase() === place.toLowerCase());
  };
  const dropOf = ({ schema, name }: Trigger): string => `drop trigger ${id(schema)}.${id(name)}`;

  return {
    async installing() {
      const at = await findSuppressions();
      const making: string[] = [];
      const sweeping: string[] = [];
      const old = (await present()).filter(isOurs);
      const triggers = new Map(old.map((trigger) => [trigger.name, trigger]));
      for (const table of store.tables) {
        const place = await findGuarded(table);
        const body = bodyOf(table, place, at);
        for (const event of EVENTS) {
          const name = `${nameOf(store.name, table)}_${event}`;
          const last = await lastOther(place, event);
          if (isStale(place, last))
            throw refuse(
              `Column ${table.key} of table ${table.table} is generated, and not again after a trigger of yours before the ${event}: name the column that it is made from instead.`,
            );
          const before = triggers.get(name);
          triggers.delete(name);
          const isRight = before !== undefined && before.isMine === 1 && isAsWanted(before, place, body);
          if (isRight && before.position > last) continue;
          if (before !== undefined) making.push(dropOf(before));
          making.push(
            `create trigger ${id(place.schema)}.${id(name)} before ${event} on ${place.full} for each row\n${body}`,
          );
        }
        const enabled = columnsOf(table).map((column) => ({
          ...column,
          where: `${isOther('contact', column)} and ${isHeld(at.full, table, column, keyOf(store, table, place, 'contact'))}`,
        }));
        // Set here and not by the trigger, which would count it as somebody's attempt.
        const held = enabled.map(
          ({ column, held: value, where }) =>
            `contact.${id(column)} = case when ${where} then ${value ? 1 : 0} else contact.${id(column)} end`,
        );
        const any = enabled.map(({ where }) => `(${where})`).join('\n  or ');
        sweeping.push(`update ${place.full} as contact set ${held.join(',\n  ')}\nwhere ${any}`);
      }
      return [
        `create table if not exists ${id(at.schema)}.${LOG_TABLE} (
  at datetime(3) not null default (utc_timestamp(3)), table_name varchar(140) not null, kind varchar(10) not null,
  channel varchar(10) not null, \`key\` varchar(760) not null) engine = InnoDB character set utf8mb4 collate utf8mb4_bin`,
        ...[...triggers.values()].map(dropOf),
        ...making,
        ...sweeping,
      ];
    },

    async removing({ keepLog }) {
      const { schema } = placeOf(store.suppressions);
      const all = await present();
      const mine = all.filter(isOurs);
      const log = { schema, name: LOG_TABLE, full: `${id(schema)}.${LOG_TABLE}` };
      const statements = mine.map(dropOf);
      if (keepLog || (await find(log)) === undefined) return { statements, logStays: undefined };
      if (all.length > mine.length) return { statements, logStays: OTHERS_WRITE };
      if (!(await seesAll(schema))) return { statements, logStays: UNSEEN };
      return { statements: [...statements, `drop table ${log.full}`], logStays: undefined };
    },

    async run(statements) {
      let changed = 0;
      for (const statement of statements) {
        try {
          const [result] = await connection.query<ResultSetHeader>(statement);
          // A row that is set to what it was matches; that the trigger then changes it is another count.
          changed += Number(/^Rows matched: (\d+)/.exec(result.info)?.[1] ?? 0);
        } catch (error) {
          throw explain(error, statement);
        }
      }
      return changed;
    },

    async status() {
      const at = await findSuppressions();
      const installed = (await present()).filter(isOurs);
      const states: GuardState[] = [];
      for (const table of store.tables) {
        const place = await findGuarded(table);
        const wanted = bodyOf(table, place, at);
        const found = [];
        for (const event of EVENTS) {
          const names = namesOf(store).map((name) => `${nameOf(name, table)}_${event}`);
          const there = installed.filter(({ name }) => names.includes(name));
          const last = await lastOther(place, event);
          found.push({
            isThere: there.length > 0,
            isRight:
              !isStale(place, last) &&
              there.some((one) => isAsWanted(one, place, wanted) && one.position > last),
          });
        }
        const state = found.every(({ isThere }) => !isThere)
          ? 'absent'
          : found.every(({ isRight }) => isRight)
            ? 'installed'
            : 'outdated';
        const columns = columnsOf(table);
        const key = keyOf(store, table, place, 'contact');
        const counts = columns.map(
          (column, n) =>
            `count(case when ${isOther('contact', column)} and ${isHeld(at.full, table, column, key)} then 1 end) as column_${n}`,
        );
        const [row] = await rowsOf<Record<string, number>>(
          `select ${counts.join(', ')}, count(case when contact.${id(table.key)} is not null and not (${isRead(table, place, 'contact')}) then 1 end) as unreadable
           from ${place.full} as contact`,
        );
        states.push(...statesOf(table, state, row!));
      }
      return states;
    },

    async logged() {
      const { schema } = await findSuppressions();
      const log = { schema, name: LOG_TABLE, full: `${id(schema)}.${LOG_TABLE}` };
      if ((await find(log)) === undefined) return undefined;
      return (await rowsOf<{ n: number }>(`select count(*) as n from ${log.full}`))[0]?.n;
    },

    async [Symbol.asyncDispose]() {
      await connection.end();
    },
  };
}

function explain(error: unknown, statement: string): unknown {
  if (!(error instanceof Error) || !('errno' in error) || !('sqlState' in error)) return error;
  const why = reasonOf(Number(error.errno), error.message);
  // What was to be replaced is dropped by now, and there is no way back.
  const [, event, table] =
    /^create trigger .* before (insert|update) on (.+) for each row$/m.exec(statement) ?? [];
  return refuse(
    event === undefined
      ? why
      : `${why} Until \`abide guard install\` has been run again, no ${event} of ${table} is guarded.`,
  );
}

function reasonOf(errno: number, message: string): string {
  if ([1044, 1142, 1143, 1227].includes(errno)) {
    return `Not allowed to this user (error ${errno}): it needs create, drop and trigger on these databases, see --url.`;
  }
  if (errno === 1419) {
    return 'The server keeps a binary log and lets only administrators make triggers (error 1419): see --url, or log_bin_trust_function_creators.';
  }
  if (errno === 1205)
    return 'A table was in use for too long. Run it again at a quieter time: it goes on where it was.';
  // MariaDB's number and MySQL's.
  if ([4025, 3819].includes(errno)) return `${CHECKED(message)} Then run it again: it goes on where it was.`;
  return `MySQL answered error ${errno}. Fix that and run it again: it goes on where it was.`;
}
