// What `abide doctor` looks at: each finding in words, with what to do about it.
import { existsSync, statSync } from 'node:fs';
import { statfs } from 'node:fs/promises';
import { basename, join } from 'node:path';
import pg from 'pg';
import { checkIssuers } from '../api/guard/issuer-keys.ts';
import { isSamePlaceOfServer } from '../config/configuration.ts';
import type { Configuration, StoreConfiguration } from '../config/configuration.ts';
import { dataFolderOf } from '../config/data-folder.ts';
import { openPool, toMilliseconds } from '../ledger/database.ts';
import type { Pool } from '../ledger/database.ts';
import { readKeyRing } from '../ledger/key-ring.ts';
import { IS_PUBLISHED } from '../ledger/migrate.ts';
import { readLag } from '../ledger/propagation-lag.ts';
import { lastSetBack } from '../ledger/set-back.ts';
import { listStores } from '../ledger/stores.ts';
import { oldestWriter } from '../ledger/watermark.ts';
import { AbideError, sayError } from '../suppression/errors.ts';
import { checkStores } from './check-stores.ts';
import { examineKafka } from './examine-kafka.ts';
import { attention, broken, fine } from './finding.ts';
import type { Finding } from './finding.ts';
import { lackingSecrets } from './given-secrets.ts';
import { adminKeyFile, keysFile } from './kept-file.ts';
import type { DatabaseUrls } from './open-database.ts';
import { findDatabase, readConfiguration, readRing } from './running-database.ts';

const GIB = 1024 ** 3;
const START =
  'Start it with `npm start`, or name its data folder (ABIDE_DATA) or its configuration (ABIDE_CONFIG).';
const NO_LEDGER =
  'If it had one, that is lost: see LEDGER_MISSING in docs/runbook.md. Else one begins at the first start or, if the key ring is given, by `abide ledger init`.';
const LAG_FIXES: Readonly<Record<string, string>> = {
  unknown: 'No worker reports: is one running?',
  paused: 'Its opt-outs wait: run `abide stores resume` when it may have them.',
};

type Env = Readonly<Record<string, string | undefined>>;

/** Looks at everything; never throws, and stops early only if the rest cannot be looked at. */
export async function examine(env: Env): Promise<readonly Finding[]> {
  const findings: Finding[] = [];
  let urls: DatabaseUrls;
  let kafka: Configuration['kafka'] | undefined;
  let stores: readonly StoreConfiguration[];
  let isEmbedded: boolean;
  try {
    const configuration = await readConfiguration(env);
    stores = configuration.stores;
    kafka = configuration.source === 'kafka' ? configuration.kafka : undefined;
    findings.push(fine('configuration', `read, ${stores.length} store(s)`));
    isEmbedded = configuration.database === undefined;
    const lacking = lackingSecrets(configuration, dataFolderOf(env), env);
    if (lacking !== undefined)
      findings.push(
        attention('secrets', lacking, 'Set them where Abide runs: it does not start without them.'),
      );
    urls = await findDatabase(configuration, env);
    for (const { store, problem } of await checkStores(stores)) {
      findings.push(
        problem === undefined
          ? fine(`store ${store}`, 'opened and read')
          : broken(
              `store ${store}`,
              problem,
              'Check that it runs and lets Abide in. Its opt-outs wait in the ledger and arrive once it does.',
            ),
      );
    }
    for (const { issuer, problem } of await checkIssuers(configuration.oauth)) {
      findings.push(
        problem === undefined
          ? fine(`issuer ${issuer}`, 'gives out a key that can be used')
          : broken(
              `issuer ${issuer}`,
              problem,
              `Check oauth.${issuer} in abide.yaml, and that its jwks can be reached from here. Until then its tokens are answered 503; API keys go on working.`,
            ),
      );
    }
  } catch (error) {
    const isMissing = error instanceof AbideError && error.code === 'DATABASE_UNREACHABLE';
    return [
      ...findings,
      isMissing
        ? broken('database', sayError(error), START)
        : broken('configuration', sayError(error), 'Fix it, then run this again.'),
    ];
  }
  findings.push(...(await examineDisk(env)));
  const pool = openPool(urls.api, { max: 2, onError: () => undefined, name: 'abide doctor' });
  try {
    findings.push(...(await examineDatabase({ pool, urls, env, isEmbedded })));
    findings.push(...(await examinePlaces(pool, stores)));
    if (kafka !== undefined) findings.push(...(await examineKafka(pool, kafka)));
  } catch (error) {
    findings.push(
      (error as { code?: unknown }).code === '42P01'
        ? broken('database', 'no ledger is in it', NO_LEDGER)
        : broken('database', sayError(error), START),
    );
  } finally {
    await pool.end();
  }
  return findings;
}

async function examineDisk(env: Env): Promise<Finding[]> {
  const folder = dataFolderOf(env);
  if (!existsSync(folder)) return [];
  const { bavail, bsize } = await statfs(folder);
  const free = (bavail * bsize) / GIB;
  const findings = [
    free < 2
      ? attention('disk', `${free.toFixed(1)} GiB free`, 'Free some space: a full disk stops recording.')
      : fine('disk', `${free.toFixed(0)} GiB free`),
  ];
  for (const file of [keysFile(folder), adminKeyFile(folder), join(folder, 'postgres.json')]) {
    if (existsSync(file) && (statSync(file).mode & 0o077) !== 0) {
      findings.push(attention(basename(file), 'others on this machine may read it', `chmod 600 ${file}`));
    }
  }
  return findings;
}

async function examineDatabase({
  pool,
  urls,
  env,
  isEmbedded,
}: {
  pool: Pool;
  urls: DatabaseUrls;
  env: Env;
  isEmbedded: boolean;
}): Promise<Finding[]> {
  const findings: Finding[] = [];
  const { rows } = await pool.query<{
    version: number;
    read_only: boolean;
    wal_level: string;
    standbys: string;
    now: string;
    publication: boolean;
    may_change: boolean;
    is_owner: boolean;
    key_checks: { key_id: number; purpose: string; value: string }[] | null;
  }>(`select current_setting('server_version_num')::int as version,
        current_setting('transaction_read_only')::boolean as read_only, current_setting('wal_level') as wal_level,
        current_setting('synchronous_standby_names') as standbys,
        clock_timestamp() as now, (${IS_PUBLISHED}) as publication,
        has_table_privilege('decisions', 'UPDATE') or has_table_privilege('decisions', 'DELETE')
          or has_table_privilege('decisions', 'TRUNCATE') as may_change,
        (select pg_get_userbyid(relowner) = current_user from pg_class where oid = 'decisions'::regclass) as is_owner,
        (select json_agg(json_build_object('key_id', key_id, 'purpose', purpose, 'value', encode(check_value, 'hex')))
         from key_checks) as key_checks`);
  const row = rows[0]!;
  const setBackAt = await lastSetBack(pool);
  findings.push(
    row.version < 150_000
      ? broken('database', `PostgreSQL ${Math.floor(row.version / 10_000)}`, 'Abide needs 15 or later.')
      : row.read_only
        ? broken(
            'database',
            'it takes no writes: it is a replica, or its recovery has not ended',
            'Name the primary in abide.yaml; a recovery that has reached its target waits for `select pg_wal_replay_resume()`.',
          )
        : fine('database', `PostgreSQL ${Math.floor(row.version / 10_000)} answers`),
    ...(setBackAt === undefined
      ? []
      : [
          broken(
            'ledger',
            `the database went back in time, which was noticed at ${toMilliseconds(setBackAt)}`,
            'Follow docs/runbook.md, "A ledger that was restored": `abide ledger restored` is part of it.',
          ),
        ]),
    row.may_change || row.is_owner
      ? attention(
          'roles',
          "the API's role may change or delete decisions",
          'Name owner_database and replication_database in abide.yaml, with roles of their own.',
        )
      : fine('roles', "the API's role can only add decisions"),
    row.publication
      ? fine('publication', 'abide has the decisions')
      : broken(
          'publication',
          'abide is missing, or lacks a table or its inserts: the stream brings nothing',
          'Restart Abide with owner_database: it makes the publication again.',
        ),
    row.wal_level === 'logical'
      ? fine('stream', 'wal_level is logical')
      : attention(
          'stream',
          `wal_level is ${row.wal_level}: decisions arrive by polling the ledger every 250 ms`,
          'Set wal_level = logical in postgresql.conf and restart PostgreSQL.',
        ),
  );
  if (row.standbys.includes('*'))
    findings.push(
      attention(
        'standby',
        `synchronous_standby_names is ${row.standbys}: Abide's own stream counts as a standby, and keeps nothing`,
        'Name the standbys in it: an opt-out that was answered may otherwise be on this server alone.',
      ),
    );
  const apart = Math.abs(Date.parse(row.now) - Date.now());
  findings.push(
    apart > 5_000
      ? attention(
          'clock',
          `${Math.round(apart / 1000)} s apart from the database's clock`,
          'Synchronise it (NTP).',
        )
      : fine(
          'clock',
          `${Math.round(apart)} ms apart from the database's clock; lag and latency use only that one`,
        ),
  );
  findings.push(examineKeys(row.key_checks ?? [], env, isEmbedded));
  findings.push(await examineReplication(urls));
  const writer = await oldestWriter(pool);
  if (writer !== undefined && writer.seconds > 60) {
    findings.push(
      attention(
        'open transaction',
        `backend ${writer.pid} has had a transaction open for ${Math.round(writer.seconds)} s`,
        'It delays the watermarks (not the lag, not deliveries). End it if nobody needs it.',
      ),
    );
  }
  const lag = await readLag(pool);
  for (const store of lag.stores) {
    // If a paused store is late, its last error says nothing of why.
    const isPaused = store.paused === true;
    const says = `${store.status}${isPaused && store.status !== 'paused' ? ' and paused' : ''}, oldest outstanding ${store.oldest_outstanding_seconds ?? '?'} s`;
    findings.push(
      store.status === 'ok' || store.status === 'backfilling'
        ? fine(`lag of ${store.store}`, says)
        : attention(
            `lag of ${store.store}`,
            `${says}${store.last_error === null ? '' : `, last error ${store.last_error.code}`}`,
            LAG_FIXES[isPaused ? 'paused' : store.status] ?? 'See `abide lag` and the log of the worker.',
          ),
    );
  }
  return findings;
}

/** Only these say by their incarnation which server they are of; that of a connector of the user's own may say anything. */
const SAY_WHICH_SERVER: readonly string[] = ['postgres', 'mysql', 'redis'];

/** Places with two names, by what the workers have seen of them. */
async function examinePlaces(pool: Pool, stores: readonly StoreConfiguration[]): Promise<Finding[]> {
  const seen = new Map((await listStores(pool)).map(({ name, incarnation }) => [name, incarnation]));
  return stores.flatMap((store, n): Finding[] => {
    const incarnation = seen.get(store.name);
    if (incarnation === undefined || !SAY_WHICH_SERVER.includes(store.connectorName)) return [];
    const same = stores
      .slice(0, n)
      .find((one) => seen.get(one.name) === incarnation && isSamePlaceOfServer(one, store));
    if (same === undefined) return [];
    return [
      attention(
        `place of ${store.name}`,
        `it says of itself what ${same.name} says: it is the same place under another name, or a copy of its server's files`,
        'If it is the same place, name all scopes in one stanza: each store takes what the other one writes for its own.',
      ),
    ];
  });
}

function examineKeys(
  checks: readonly { key_id: number; purpose: string; value: string }[],
  env: Env,
  isEmbedded: boolean,
): Finding {
  const file = keysFile(dataFolderOf(env));
  try {
    const text = readRing(env);
    if (text === undefined) {
      // The database is in this folder, so its ring would be here too.
      return isEmbedded
        ? broken(
            'keys',
            `there is no ${file}: Abide will not start again, and without the ring no address can be read`,
            'Restore it from its backup, or set ABIDE_KEYS.',
          )
        : attention(
            'keys',
            'there is no key ring here to check',
            'Set ABIDE_KEYS, or ABIDE_DATA to its folder.',
          );
    }
    const ring = readKeyRing(text);
    const lacking = checks.filter(
      (check) =>
        !ring.checks.some((own) => own.keyId === check.key_id && own.value.toString('hex') === check.value),
    );
    return lacking.length === 0
      ? fine('keys', 'the ring belongs to this database')
      : broken(
          'keys',
          `the ring lacks ${lacking.map((check) => `${check.purpose} key ${check.key_id}`).join(', ')}`,
          'Restore the ring that belongs to this database: Abide does not start without it.',
        );
  } catch (error) {
    return broken('keys', sayError(error), 'Restore the ring from its backup.');
  }
}

async function examineReplication(urls: DatabaseUrls): Promise<Finding> {
  const client = new pg.Client({ connectionString: urls.replication, connectionTimeoutMillis: 3_000 });
  client.on('error', () => undefined);
  try {
    await client.connect();
    const { rows } = await client.query<{ may: boolean; free: number }>(
      `select rolreplication or rolsuper as may,
         current_setting('max_replication_slots')::int - (select count(*)::int from pg_replication_slots) as free
       from pg_roles where rolname = current_user`,
    );
    if (rows[0]?.may !== true) {
      return attention(
        'replication',
        'the role may not replicate',
        'Run `alter role … replication`; until then the ledger is polled.',
      );
    }
    return rows[0].free > 0
      ? fine('replication', `the role may replicate, ${rows[0].free} slot(s) free`)
      : attention(
          'replication',
          'no replication slot is free',
          'Raise max_replication_slots, or drop an unused slot.',
        );
  } catch (error) {
    return attention('replication', sayError(error), 'Check replication_database in abide.yaml.');
  } finally {
    await client.end().catch(() => undefined);
  }
}
