// Brings the database to the schema of this version. Any number of processes may start at once.
import type { Knex } from 'knex';
import type pg from 'pg';
import { AbideError } from '../suppression/errors.ts';
import { isUnavailable, onConnection, sayUnable } from './database.ts';
import * as ledger from './migrations/0001-ledger.ts';
import * as reconciliation from './migrations/0002-reconciliation.ts';
import * as canaries from './migrations/0003-canaries.ts';
import * as usage from './migrations/0004-usage.ts';
import * as limits from './migrations/0005-limits.ts';
import * as peopleAndGrants from './migrations/0006-people-and-grants.ts';
import * as imports from './migrations/0007-imports.ts';
import * as askedAgain from './migrations/0008-asked-again.ts';
import * as ownSuppressions from './migrations/0009-own-suppressions.ts';
import * as decidedAgain from './migrations/0010-decided-again.ts';
import * as stanzas from './migrations/0011-stanzas.ts';
import * as targetSince from './migrations/0012-target-since.ts';
import * as toldSince from './migrations/0013-told-since.ts';
import * as datesStay from './migrations/0014-dates-stay.ts';
import * as erasure from './migrations/0015-erasure.ts';
import * as newestPepper from './migrations/0016-newest-pepper.ts';
import * as backfillMoved from './migrations/0017-backfill-moved.ts';
import * as importsReadBy from './migrations/0018-imports-read-by.ts';
import * as setBack from './migrations/0019-set-back.ts';
import * as attachedPartitions from './migrations/0020-attached-partitions.ts';
import * as keyOfGrant from './migrations/0021-key-of-a-grant.ts';
import * as triesByStore from './migrations/0022-tries-by-store.ts';
import { grantPrivileges } from './roles.ts';

type Migration = Knex.Migration & { readonly name: string };

/** In order, and never changed once released: their names stand in the database. */
const MIGRATIONS: readonly Migration[] = [
  { name: '0001-ledger', up: (db) => ledger.up(plainSql(db)), down: ledger.down },
  { name: '0002-reconciliation', up: (db) => reconciliation.up(plainSql(db)), down: ledger.down },
  { name: '0003-canaries', up: (db) => canaries.up(plainSql(db)), down: ledger.down },
  { name: '0004-usage', up: (db) => usage.up(plainSql(db)), down: ledger.down },
  { name: '0005-limits', up: (db) => limits.up(plainSql(db)), down: ledger.down },
  { name: '0006-people-and-grants', up: (db) => peopleAndGrants.up(plainSql(db)), down: ledger.down },
  { name: '0007-imports', up: (db) => imports.up(plainSql(db)), down: ledger.down },
  { name: '0008-asked-again', up: (db) => askedAgain.up(plainSql(db)), down: ledger.down },
  { name: '0009-own-suppressions', up: (db) => ownSuppressions.up(plainSql(db)), down: ledger.down },
  { name: '0010-decided-again', up: (db) => decidedAgain.up(plainSql(db)), down: ledger.down },
  { name: '0011-stanzas', up: (db) => stanzas.up(plainSql(db)), down: ledger.down },
  { name: '0012-target-since', up: (db) => targetSince.up(plainSql(db)), down: ledger.down },
  { name: '0013-told-since', up: (db) => toldSince.up(plainSql(db)), down: ledger.down },
  { name: '0014-dates-stay', up: (db) => datesStay.up(plainSql(db)), down: ledger.down },
  { name: '0015-erasure', up: (db) => erasure.up(plainSql(db)), down: ledger.down },
  { name: '0016-newest-pepper', up: (db) => newestPepper.up(plainSql(db)), down: ledger.down },
  { name: '0017-backfill-moved', up: (db) => backfillMoved.up(plainSql(db)), down: ledger.down },
  { name: '0018-imports-read-by', up: (db) => importsReadBy.up(plainSql(db)), down: ledger.down },
  { name: '0019-set-back', up: (db) => setBack.up(plainSql(db)), down: ledger.down },
  { name: '0020-attached-partitions', up: (db) => attachedPartitions.up(plainSql(db)), down: ledger.down },
  { name: '0021-key-of-a-grant', up: (db) => keyOfGrant.up(plainSql(db)), down: ledger.down },
  { name: '0022-tries-by-store', up: (db) => triesByStore.up(plainSql(db)), down: ledger.down },
];

/** A migration is SQL as PostgreSQL reads it. Knex would take the question mark in jsonb's operators for a parameter. */
const plainSql = (db: Knex): Knex =>
  new Proxy(db, {
    get: (target, name): unknown =>
      name === 'raw'
        ? (sql: string) => target.raw(sql.replace(/(?<!\\)\?/g, '\\?'))
        : Reflect.get(target, name),
  });

const source: Knex.MigrationSource<Migration> = {
  getMigrations: () => Promise.resolve([...MIGRATIONS]),
  getMigrationName: ({ name }) => name,
  getMigration: (migration) => Promise.resolve(migration),
};

/**
 * Migrates as the owner, and grants the two other roles what they need. Throws DATABASE_UNREACHABLE, an error if the database
 * is of a newer version than ours, and `ifEmpty` if no ledger has begun in it; then it is left as it is.
 */
export async function migrate(
  ownerUrl: string,
  roles: { readonly apiRole: string; readonly replicationRole: string },
  ifEmpty?: AbideError,
): Promise<void> {
  try {
    await onConnection(ownerUrl, 'abide migrate', async (client) => {
      // The lock belongs to this session and is held until everything is done: without it, two of three concurrent migrations of an
      // empty database fail.
      await client.query("select pg_advisory_lock(hashtext('abide.migrate'))");
      if (ifEmpty !== undefined && (await isEmpty(client))) throw ifEmpty;
      await expectUtf8(client);
      if (!(await isLatest(client))) await migrateToLatest(ownerUrl);
      await publishAgain(client);
      await grantPrivileges(client, roles);
    });
  } catch (error) {
    if (!isUnavailable(error)) throw error;
    const { host, pathname } = new URL(ownerUrl);
    const where = `${host}${pathname}`;
    const message = sayUnable(where, error) ?? `The database ${where} cannot be reached.`;
    throw new AbideError('DATABASE_UNREACHABLE', message, { cause: error });
  }
}

/** Whether no ledger has begun in it: one begins when a key ring is taken (key-ring.ts), and not with the tables. */
async function isEmpty(client: pg.Client): Promise<boolean> {
  const { rows } = await client.query<{ known: boolean }>(
    "select to_regclass('key_checks') is not null as known",
  );
  return !rows[0]!.known || (await client.query('select from key_checks limit 1')).rowCount === 0;
}

/** Another one lacks characters of names and reasons, or counts bytes as characters; and a database keeps its encoding. */
async function expectUtf8(client: pg.Client): Promise<void> {
  const { rows } = await client.query<{ encoding: string }>(
    "select current_setting('server_encoding') as encoding",
  );
  const { encoding } = rows[0]!;
  if (encoding === 'UTF8') return;
  throw new Error(
    `The database has the encoding ${encoding}: create another one with encoding 'UTF8' template template0. Nothing was changed.`,
  );
}

/** Knex is the largest thing that we load, and it has something to do only once per version. */
async function isLatest(client: pg.Client): Promise<boolean> {
  const { rows: tables } = await client.query("select to_regclass('knex_migrations') is not null as known");
  if (!(tables[0] as { known: boolean }).known) return false;
  const { rows } = await client.query<{ name: string }>('select name from knex_migrations order by id');
  const done = new Set(rows.map(({ name }) => name));
  const ours = new Set(MIGRATIONS.map(({ name }) => name));
  const newer = done.difference(ours);
  if (newer.size > 0) {
    throw new Error(
      `The database was used by a newer Abide (it has ${[...newer].join(', ')}): start that one. Nothing was changed.`,
    );
  }
  return ours.isSubsetOf(done);
}

/** Whether the publication exists, with both tables and with what is inserted into them. */
export const IS_PUBLISHED = `
  exists (select from pg_publication where pubname = 'abide' and pubinsert)
  and 2 = (select count(*) from pg_publication_tables where pubname = 'abide' and rowfilter is null
           and tablename in ('decisions', 'abide_heartbeat'))`;

/** Makes a publication again that somebody dropped or altered: without it no stream goes on, or one goes on without decisions. */
async function publishAgain(client: pg.Client): Promise<void> {
  const { rowCount } = await client.query(`select where ${IS_PUBLISHED}`);
  // Both in one transaction, so that no reader ever finds none.
  if (rowCount === 0) await client.query(`drop publication if exists abide; ${ledger.PUBLICATION}`);
}

async function migrateToLatest(ownerUrl: string): Promise<void> {
  const { default: knex } = await import('knex');
  const db = knex({
    client: 'pg',
    connection: ownerUrl,
    pool: { min: 0, max: 2 },
    acquireConnectionTimeout: 5_000,
    migrations: { migrationSource: source },
  });
  try {
    // Knex keeps a lock of its own in a table, and a process killed while it holds that lock leaves it for ever. We hold the
    // advisory lock, so the process that left it is gone.
    await db.migrate.forceFreeMigrationsLock();
    await db.migrate.latest();
  } finally {
    await db.destroy();
  }
}
