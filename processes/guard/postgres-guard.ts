// The guard in PostgreSQL: a function and a trigger per table. The function runs as the role that installed it, so an import needs
// no right on the suppressions; it decides by what the row is about to become, and fails a write only if it cannot know who is
// suppressed. If a superuser installed it, it runs as the owner of the suppressions instead: the owner of the tables decides what
// is run with them.
import pg from 'pg';
import type { GuardedTable } from '../../config/configuration.ts';
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

const CONNECT_TIMEOUT_MS = 5_000;
/** Making a trigger waits for every write under way, and makes every later one wait behind it. */
const LOCK_TIMEOUT_MS = 10_000;

const id = pg.escapeIdentifier;
const text = pg.escapeLiteral;

/** Triggers fire by name, and what a later one sets would stand: ours comes after all but the oddest names. */
const triggerOf = (name: string): string => `zz_${name}`;

/**
 * Collations that lower letters beyond ASCII whatever the database's own locale does with them: C leaves them as they are, a
 * Turkish one makes another letter of I. The first that exists is taken; the database's own is last, if it lowers as we do.
 */
const COLLATIONS = ['und-x-icu', 'pg_unicode_fast', 'pg_c_utf8', 'default'];
/** With these each letter becomes one letter, whatever stands around it: I with a dot and sigma do not become what they should. */
const BY_LETTER = ['pg_c_utf8', 'default'];

/** Without it row-level security hides rows in silence: somebody suppressed is not found, or not held down. With it, that is an error. */
const SEE_ALL = 'set row_security = off';
const HIDES = (table: string, role: string): string =>
  `Row-level security applies to ${role} in ${table}, and may hide people from the guard whatever its policies are. Let ${role} bypass it (alter role ${id(role)} bypassrls), or name another role that it does not apply to (--url).`;

const SPACES_LITERAL = `U&'${[...SPACES].map((space) => `\\${space.charCodeAt(0).toString(16).padStart(4, '0')}`).join('')}'`;

/** The normal form of an address as far as SQL can make it; null if it cannot. */
function normalForm(kind: SubjectKind, value: string, collation: string | undefined): string {
  const trimmed = `btrim(${value}::text collate "C", ${SPACES_LITERAL})`;
  switch (kind) {
    case 'email': {
      // A domain that ends with the root's dot is the same domain.
      const address = `rtrim(${trimmed}, '.')`;
      const ascii = `case when octet_length(${address}) = length(${address}) then lower(${address})`;
      if (collation === undefined) return `${ascii} end`;
      // A domain beyond ASCII has an A-label, which SQL cannot make.
      const domain = `substring(${address} from '[^@]*$')`;
      const isLowered = BY_LETTER.includes(collation) ? ` and ${address} !~ U&'[\\0130\\03A3]'` : '';
      return `${ascii}
    when octet_length(${domain}) = length(${domain})${isLowered} then normalize(lower(normalize(${address}) collate ${id(collation)})) collate "C" end`;
    }
    case 'phone': {
      const digits = `'+' || regexp_replace(${trimmed}, '[^0-9]', '', 'g')`;
      const isNational = `(${digits}) ~ '${NATIONAL_PREFIX}' and (${digits}) !~ '${OWN_ZERO}'`;
      return `case when ${trimmed} ~ '^[+][0-9 ()./-]+$' and ${trimmed} !~ '[(]0[)]' and not (${isNational}) then ${digits} end`;
    }
    case 'push_token':
    case 'person_id':
      return trimmed;
  }
}

const plainOf = ({ kind, key }: GuardedTable, collation: string | undefined, row: string): string => {
  const value = `${row}.${id(key)}`;
  return `case when length(${value}::text) <= ${LONGEST[kind]} then ${normalForm(kind, value, collation)} end`;
};

const keyOf = (
  store: GuardedStore,
  collation: string | undefined,
  table: GuardedTable,
  row: string,
): string => {
  const plain = plainOf(table, collation, row);
  return store.isHashed ? `encode(sha256(convert_to(${plain}, 'UTF8')), 'hex')` : plain;
};

/** Whether SQL knows who it is. Only the count asks this, since nobody is found by a form that is not normal. */
const isRead = (table: GuardedTable, collation: string | undefined, row: string): string => {
  const plain = plainOf(table, collation, row);
  return table.kind === 'email' ? `coalesce(${plain} ~ ${text(ADDRESS)}, false)` : `${plain} is not null`;
};

/** Whether the store holds the person suppressed. */
const isHeld = (
  suppressions: string,
  { kind }: GuardedTable,
  { channel }: GuardedColumn,
  key: string,
): string =>
  `exists (select from ${suppressions} as held where held.kind = ${text(kind)} and held.key = (${key}) collate "C" and held.${channel})`;

type Column = {
  readonly type: string;
  readonly isGenerated: boolean;
  /** The owner of the type, if that is no superuser: what the type does when it is cast or checked is the owner's. */
  readonly typeOf: string | null;
};
type Found = {
  readonly oid: string;
  readonly schema: string;
  readonly isView: boolean;
  /** The role in whose name we look, if row-level security may hide rows from it. */
  readonly hiddenFrom: string | null;
  readonly columns: ReadonlyMap<string, Column>;
};

const named = (name: string): string => name.split('.').map(id).join('.');

export async function openPostgresGuard(store: GuardedStore): Promise<Guard> {
  const client = new pg.Client({
    connectionString: store.url,
    fallback_application_name: 'abide guard',
    connectionTimeoutMillis: CONNECT_TIMEOUT_MS,
    lock_timeout: LOCK_TIMEOUT_MS,
  });
  client.on('error', () => undefined);
  await client.connect();

  /** Where a table is, and the types of its columns. */
  async function find(table: string): Promise<Found> {
    const { rows } = await client.query<Column & Omit<Found, 'columns'> & { name: string }>(
      `select pg_class.oid::text as oid, nspname as schema, relkind in ('v', 'm') as "isView", attname as name, format_type(atttypid, null) as type,
         attgenerated <> '' as "isGenerated", case when row_security_active(pg_class.oid) then current_user end as "hiddenFrom",
         (select rolname from pg_roles where pg_roles.oid = typowner and not rolsuper) as "typeOf"
       from pg_class join pg_namespace on pg_namespace.oid = relnamespace join pg_attribute on attrelid = pg_class.oid
         join pg_type on pg_type.oid = atttypid
       where pg_class.oid = to_regclass($1) and attnum > 0 and not attisdropped`,
      [named(table)],
    );
    const [first] = rows;
    if (first === undefined) throw refuse(`There is no table ${table}.`);
    const { oid, schema, isView, hiddenFrom } = first;
    return { oid, schema, isView, hiddenFrom, columns: new Map(rows.map((row) => [row.name, row])) };
  }

  type Suppressions = {
    readonly schema: string;
    readonly table: string;
    readonly as: string;
    readonly isOther: boolean;
  };

  /** Where the suppressions are, and as which role the functions that look there run. */
  async function findSuppressions(): Promise<Suppressions> {
    const found = await find(store.suppressions).catch(() => undefined);
    if (found === undefined) {
      throw refuse(
        `The store's own table ${store.suppressions} does not exist yet: the store's first opt-out makes it.`,
      );
    }
    const { oid, schema } = found;
    const { rows } = await client.query<Pick<Suppressions, 'as' | 'isOther'> & { isHidden: boolean }>(
      `select one.rolname as "as", one.oid <> me.oid as "isOther",
         relrowsecurity and not (one.rolsuper or one.rolbypassrls)
           and (relforcerowsecurity or not pg_has_role(one.oid, relowner, 'usage')) as "isHidden"
       from pg_class join pg_roles as me on me.rolname = current_user
         join pg_roles as one on one.oid = case when me.rolsuper then relowner else me.oid end
       where pg_class.oid = $1`,
      [oid],
    );
    const { isHidden, ...runs } = rows[0]!;
    if (isHidden) throw refuse(HIDES(store.suppressions, runs.as));
    return { schema, table: `${id(schema)}.${id(store.suppressions.split('.').at(-1)!)}`, ...runs };
  }

  /** A table of the user's with its columns checked, including whether a function that runs as `as` may look at them. */
  async function findGuarded(table: GuardedTable, as?: string): Promise<{ oid: string; full: string }> {
    const { oid, schema, isView, hiddenFrom, columns } = await find(table.table);
    if (isView) throw refuse(IS_VIEW(table.table));
    if (hiddenFrom !== null) throw refuse(HIDES(table.table, hiddenFrom));
    const wanted = [
      ...columnsOf(table).map(({ column }) => [column, 'boolean'] as const),
      [table.key, undefined] as const,
    ];
    for (const [column, type] of wanted) {
      const is = columns.get(column);
      if (is === undefined) throw refuse(`Table ${table.table} has no column ${column}.`);
      if (type !== undefined && is.type !== type)
        throw refuse(
          `Column ${column} of table ${table.table} is ${is.type}: the guard sets columns that are ${type}.`,
        );
      if (as !== undefined && is.typeOf !== null && is.typeOf !== as)
        throw refuse(
          `Column ${column} of table ${table.table} is of a type that ${is.typeOf} made: whatever that type does, the guard would do as ${as}.`,
        );
      // Before the row is written, the column is null, and what a trigger sets there is not kept.
      if (is.isGenerated)
        throw refuse(
          `Column ${column} of table ${table.table} is generated after every trigger: name what it is made from instead.`,
        );
    }
    return { oid, full: `${id(schema)}.${id(table.table.split('.').at(-1)!)}` };
  }

  async function findCollation(): Promise<string | undefined> {
    const { rows } = await client.query<{ name: string }>(
      `select collname as name from pg_collation
       where collname = any($1) and collnamespace = 'pg_catalog'::regnamespace
         and collencoding in (-1, pg_char_to_encoding('UTF8')) and (collname <> 'default' or lower('IÉ') = 'ié')
       order by array_position($1, collname::text) limit 1`,
      [COLLATIONS],
    );
    return rows[0]?.name;
  }

  function bodyOf(
    table: GuardedTable,
    full: string,
    at: Suppressions,
    collation: string | undefined,
  ): string {
    const checks = columnsOf(table).map((column) => {
      const value = `new.${id(column.column)}`;
      return `
  if ${value} is distinct from ${column.held} and ${isHeld(at.table, table, column, 'who')} then
    ${value} := ${column.held};
    insert into ${id(at.schema)}.${LOG_TABLE} (table_name, kind, channel, key)
    values (${text(full.replaceAll('"', ''))}, ${text(table.kind)}, ${text(column.channel)}, who);
  end if;`;
    });
    const key = `new.${id(table.key)}`;
    // A table's owner may change a column's type to one whose casts and checks are the owner's functions. Nothing is planned before
    // it is reached. A type below 16384 came with PostgreSQL, which is seen without a query; a query takes longer than the rest.
    const areBoolean = columnsOf(table).map(
      ({ column }) => `pg_typeof(new.${id(column)}) = 'boolean'::regtype`,
    );
    return `
declare
  who text;
begin
  if pg_typeof(${key})::oid >= 16384 or not (${areBoolean.join(' and ')}) then
    if not (${areBoolean.join(' and ')} and exists (select from pg_type join pg_roles on pg_roles.oid = typowner
      where pg_type.oid = pg_typeof(${key}) and (rolsuper or rolname = current_user))) then
      raise exception 'a guarded column of % has another type: run abide guard install', tg_relid::regclass;
    end if;
  end if;
  who := ${keyOf(store, collation, table, 'new')};${checks.join('')}
  return new;
end `;
  }

  const prefixes = namesOf(store).map(prefixOf);
  // Another installation may have a schema of this database and a store of the same name: its functions are beside its own
  // suppressions. If ours are gone, what they left is where they would be made again.
  const isHere = `pronamespace = coalesce((select relnamespace from pg_class where oid = to_regclass($2)),
    (select oid from pg_namespace where nspname = coalesce($3::text, current_schema())))`;
  const here = [named(store.suppressions), store.suppressions.split('.').at(-2)];
  // Whether it fires is said of each partition by itself, and all of them have the one function. `on` is where it is now: a
  // trigger goes with its table when that is renamed.
  const present = async () =>
    (
      await client.query<{
        table: string;
        on: string;
        trigger: string;
        body: string;
        fires: boolean;
        is_public: boolean;
        sees_all: boolean;
      }>(
        `select tgrelid::regclass::text as table, tgrelid::text as on, tgname as trigger, prosrc as body,
           not exists (select from pg_trigger as one where one.tgfoid = pg_proc.oid and one.tgenabled not in ('O', 'A')) as fires,
           has_function_privilege('public', pg_proc.oid, 'execute') as is_public,
           coalesce('row_security=off' = any (proconfig), false) as sees_all
         from pg_trigger join pg_proc on pg_proc.oid = tgfoid
         where tgname::text ^@ any ($1::text[]) and not tgisinternal and tgparentid = 0 and ${isHere}`,
        [prefixes.map(triggerOf), ...here],
      )
    ).rows;
  /** Everything that is there of this store; a function outlives the table whose trigger it was. */
  async function dropping(): Promise<string[]> {
    const { rows } = await client.query<{ function: string }>(
      `select oid::regprocedure::text as function from pg_proc where proname::text ^@ any ($1::text[]) and ${isHere}`,
      [prefixes, ...here],
    );
    return [
      ...(await present()).map(({ table, trigger }) => `drop trigger ${id(trigger)} on ${table}`),
      ...rows.map((row) => `drop function ${row.function}`),
    ];
  }

  return {
    async installing() {
      const at = await findSuppressions();
      const { rows } = await client.query<{ encoding: string }>(
        "select current_setting('server_encoding') as encoding",
      );
      if (rows[0]?.encoding !== 'UTF8')
        throw refuse(`The database is encoded in ${rows[0]?.encoding}: the guard needs UTF8.`);
      const collation = await findCollation();
      const log = `${id(at.schema)}.${LOG_TABLE}`;
      const making: string[] = [];
      const sweeping: string[] = [];
      for (const table of store.tables) {
        const { full } = await findGuarded(table, at.as);
        const name = nameOf(store.name, table);
        const made = `${id(at.schema)}.${id(name)}`;
        making.push(
          `create function ${made}() returns trigger language plpgsql security definer set search_path = pg_catalog, pg_temp ${SEE_ALL} as $abide$${bodyOf(table, full, at, collation)}$abide$`,
          // A role that may execute the function may hang it on a table of its own, and learn from it who is suppressed. To fire, a
          // trigger needs nobody's right.
          `revoke all on function ${made}() from public`,
          ...(at.isOther ? [`alter function ${made}() owner to ${id(at.as)}`] : []),
          `create trigger ${id(triggerOf(name))} before insert or update on ${full} for each row execute function ${made}()`,
        );
        const enabled = columnsOf(table).map((column) => ({
          ...column,
          where: `contact.${id(column.column)} is distinct from ${column.held} and ${isHeld(at.table, table, column, keyOf(store, collation, table, 'contact'))}`,
        }));
        // Set here and not by the trigger, which would count it as somebody's attempt.
        const held = enabled.map(
          ({ column, held: value, where }) =>
            `${id(column)} = case when ${where} then ${value} else contact.${id(column)} end`,
        );
        const any = enabled.map(({ where }) => `(${where})`).join('\n  or ');
        sweeping.push(`update ${full} as contact set ${held.join(',\n  ')}\nwhere ${any}`);
      }
      return [
        SEE_ALL,
        `create table if not exists ${log} (
  at timestamptz not null default clock_timestamp(), table_name text not null, kind text not null,
  channel text not null, key text collate "C" not null)`,
        ...(at.isOther ? [`grant insert on ${log} to ${id(at.as)}`] : []),
        ...(await dropping()),
        ...making,
        ...sweeping,
      ];
    },

    async removing({ keepLog }) {
      const mine = await dropping();
      const { rows: logs } = await client.query<{ log: string; others: boolean }>(
        `select pg_class.oid::regclass::text as log,
           exists (select from pg_trigger where starts_with(tgname, $3) and not tgname::text ^@ any ($4::text[])) as others
         from pg_class where relname = $1 and relnamespace = (select relnamespace from pg_class where oid = to_regclass($2))`,
        [LOG_TABLE, named(store.suppressions), triggerOf('abide_guard_'), prefixes.map(triggerOf)],
      );
      const [found] = keepLog ? [] : logs;
      if (found?.others !== false) return { statements: mine, logStays: found && OTHERS_WRITE };
      return { statements: [...mine, `drop table ${found.log}`], logStays: undefined };
    },

    async run(statements) {
      let changed = 0;
      // Who was enabled while a trigger waited for its table is seen by what follows it. With one snapshot for all, which a role or
      // a database may have by default, they would stay enabled.
      await client.query('begin isolation level read committed');
      try {
        for (const statement of statements) changed += (await client.query(statement)).rowCount ?? 0;
        await client.query('commit');
      } catch (error) {
        await client.query('rollback').catch(() => undefined);
        throw explain(error);
      }
      return changed;
    },

    async status() {
      const at = await findSuppressions();
      const [installed, collation] = [await present(), await findCollation()];
      const states: GuardState[] = [];
      for (const table of store.tables) {
        const { oid, full } = await findGuarded(table);
        const wanted = bodyOf(table, full, at, collation);
        const names = namesOf(store).map((name) => triggerOf(nameOf(name, table)));
        const found = installed.filter(({ trigger }) => names.includes(trigger));
        const isRight = found.some(
          (one) => one.on === oid && one.fires && !one.is_public && one.sees_all && one.body === wanted,
        );
        const state = found.length === 0 ? 'absent' : isRight ? 'installed' : 'outdated';
        const columns = columnsOf(table);
        const key = keyOf(store, collation, table, 'contact');
        const counts = columns.map(
          (column, n) =>
            `count(*) filter (where contact.${id(column.column)} is distinct from ${column.held} and ${isHeld(at.table, table, column, key)})::int as column_${n}`,
        );
        const { rows } = await client.query<Record<string, number>>(
          `select ${counts.join(', ')}, count(*) filter (where contact.${id(table.key)} is not null and not (${isRead(table, collation, 'contact')}))::int as unreadable
           from ${full} as contact`,
        );
        states.push(...statesOf(table, state, rows[0]!));
      }
      return states;
    },

    async logged() {
      const { schema } = await findSuppressions();
      const log = `${id(schema)}.${LOG_TABLE}`;
      const { rows } = await client.query<{ there: boolean }>('select to_regclass($1) is not null as there', [
        log,
      ]);
      if (rows[0]?.there !== true) return undefined;
      return Number((await client.query<{ n: string }>(`select count(*) as n from ${log}`)).rows[0]?.n);
    },

    async [Symbol.asyncDispose]() {
      await client.end();
    },
  };
}

/** What PostgreSQL says of names, never of rows. */
function explain(error: unknown): unknown {
  if (!(error instanceof pg.DatabaseError)) return error;
  const { code = '', constraint } = error;
  if (code === '42501') return refuse(`Not allowed to this role (${error.message}): see --url.`);
  if (code === '55P03')
    return refuse('A table was in use for too long: nothing was changed. Try again at a quieter time.');
  if (code === '42710')
    return refuse(
      `It is another installation's, or from before the store's own table was moved: ${error.message}. Nothing was changed.`,
    );
  // A row that has no partition is the same state, without a constraint.
  if (code === '23514' && constraint !== undefined)
    return refuse(`${CHECKED(error.message)} Nothing was changed.`);
  return refuse(`PostgreSQL answered SQLSTATE ${code}; nothing was changed.`);
}
