// A ledger of its own for each test: a copy of the migrated template, with the three roles of a real installation.
import { randomBytes } from 'node:crypto';
import pg from 'pg';
import { grantsOnDatabase } from '../../ledger/roles.ts';
import { findEmbeddedPostgres } from '../../processes/embedded-postgres.ts';
import { FOLDER, ROLES, TEMPLATE } from './postgres-of-the-run.ts';

export type TestDatabase = AsyncDisposable & {
  readonly name: string;
  readonly urls: { readonly owner: string; readonly api: string; readonly replication: string };
  /** As the superuser, in this database: for faults, and to look at everything. */
  readonly superuserUrl: string;
};

/** `await using db = await freshDatabase()`: migrated, empty, dropped on disposal along with every connection. */
export const freshDatabase = (): Promise<TestDatabase> => makeDatabase(TEMPLATE);

/** A database without tables: for the migrations themselves, and for a store. */
export const emptyDatabase = (): Promise<TestDatabase> => makeDatabase('template1');

async function makeDatabase(template: string): Promise<TestDatabase> {
  const { urls, superuserUrl } = await postgresOfTheRun();
  const server = superuser(superuserUrl);
  const name = `test_${randomBytes(6).toString('hex')}`;
  const inDatabase = (url: string): string => Object.assign(new URL(url), { pathname: name }).href;
  // Copying files takes a third of the time of copying page by page, since nothing of it goes to the log.
  await server.query(`create database ${name} template ${template} owner abide_owner strategy file_copy`);
  if (template === TEMPLATE) await server.query(grantsOnDatabase(name, Object.values(ROLES)).join(';'));
  return {
    name,
    urls: {
      owner: inDatabase(urls.owner),
      api: inDatabase(urls.api),
      replication: inDatabase(urls.replication),
    },
    superuserUrl: inDatabase(superuserUrl),
    [Symbol.asyncDispose]: async () => {
      // A permanent slot that a test left would forbid the drop; a temporary one does so until its session has ended.
      await server.query('select pg_terminate_backend(pid, 10000) from pg_stat_activity where datname = $1', [
        name,
      ]);
      await server.query(
        'select pg_drop_replication_slot(slot_name) from pg_replication_slots where database = $1 and not temporary',
        [name],
      );
      await server.query(`drop database ${name} with (force)`);
    },
  };
}

let superusers: pg.Pool | undefined;

/** One per suite, kept for a moment, since logging in costs more than the statements do. Nobody needs to end it. */
function superuser(connectionString: string): pg.Pool {
  superusers ??= new pg.Pool({ connectionString, idleTimeoutMillis: 1_000, allowExitOnIdle: true }).on(
    'error',
    () => undefined,
  );
  return superusers;
}

async function postgresOfTheRun(): Promise<NonNullable<Awaited<ReturnType<typeof findEmbeddedPostgres>>>> {
  const folder = process.env[FOLDER];
  const found = folder === undefined ? undefined : await findEmbeddedPostgres(folder);
  if (found === undefined) throw new Error('No PostgreSQL in this run: start it with npm test.');
  return found;
}

/** One connection for a few statements. */
export async function withClient<T>(url: string, work: (client: pg.Client) => Promise<T>): Promise<T> {
  const client = new pg.Client({ connectionString: url });
  // A server that a test takes away reports itself here as well as to the statement.
  client.on('error', () => undefined);
  await client.connect();
  try {
    return await work(client);
  } finally {
    await client.end();
  }
}

/**
 * Commits as soon as another session waits for a lock. The server looks: the recording of an opt-out waits for a second at most, and
 * on a busy machine a test that looked itself would see that too late, or never.
 */
export async function commitOnceWaitedFor(client: pg.Client): Promise<void> {
  await client.query(`
    do $$ begin
      for n in 1..6000 loop
        perform pg_stat_clear_snapshot();
        if exists (
          select from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'
        ) then return; end if;
        perform pg_sleep(0.01);
      end loop;
      raise 'nobody waits for a lock';
    end $$;
    commit`);
}
