// What `abide doctor` looks at on the Kafka path: each part that a decision passes, in order, with what to do about it.
import { setTimeout as delay } from 'node:timers/promises';
import { request } from 'undici';
import type { Configuration } from '../config/configuration.ts';
import { createConnectApi } from '../debezium/connect-api.ts';
import type { TaskState } from '../debezium/connect-api.ts';
import { HEARTBEAT_TOPIC, readTopics } from '../debezium/files.ts';
import type { Queryable } from '../ledger/database.ts';
import { createKafka } from '../stream/kafka-client.ts';
import { basicAuthorization, takeCredentials } from '../stream/url-credentials.ts';
import { attention, broken, fine } from './finding.ts';
import type { Finding } from './finding.ts';
import { quietLog } from './log.ts';

const LOOK_MS_MAX = 5_000;
const HEARTBEAT_MS_MAX = 4_000;
/** Half of what the server, by our own settings, keeps for a slot before it gives the slot up. */
const RETAINED_MAX = 1024 ** 3;

const POLLED = 'Until then workers poll the ledger every 250 ms.';

/** Never throws. */
export async function examineKafka(
  db: Queryable,
  kafka: Configuration['kafka'],
): Promise<readonly Finding[]> {
  const found = await Promise.all([
    examineBrokers(kafka),
    examineRegistry(kafka.registry),
    examineConnector(kafka.connect),
    examineSlot(db),
  ]);
  return found.flat();
}

async function examineBrokers(kafka: Configuration['kafka']): Promise<Finding[]> {
  const admin = createKafka({ address: kafka, clientId: 'abide-doctor', log: quietLog, retries: 1 }).admin();
  const brokers = kafka.brokers.join(', ');
  try {
    const topics = await inTime(admin.connect().then(() => admin.listTopics()));
    const missing = [...readTopics().keys()].filter((topic) => !topics.includes(topic));
    if (missing.length > 0) {
      return [
        broken(
          'topics',
          `missing: ${missing.join(', ')}`,
          'The API makes them: check that it runs and may create topics.',
        ),
      ];
    }
    const findings = [fine('kafka', `${brokers} answer(s), the topics are there`)];
    const end = async (): Promise<string> =>
      (await admin.fetchTopicOffsets(HEARTBEAT_TOPIC)).map(({ high }) => high).join();
    const began = await end();
    const until = performance.now() + HEARTBEAT_MS_MAX;
    while ((await end()) === began) {
      if (performance.now() > until) {
        const fix = `See the connector below, and check that the replication role may write abide_heartbeat. If Connect itself hangs (its log says why), restart it. ${POLLED}`;
        return [...findings, broken('heartbeat', `none within ${HEARTBEAT_MS_MAX / 1000} s`, fix)];
      }
      await delay(200);
    }
    return [...findings, fine('heartbeat', 'passes from the database to the topic')];
  } catch (error) {
    const says = `no answer from ${brokers}: ${error instanceof Error ? error.message : String(error)}`;
    return [
      broken('kafka', says, `Check kafka.brokers, tls and sasl in abide.yaml, and that it runs. ${POLLED}`),
    ];
  } finally {
    await inTime(admin.disconnect()).catch(() => undefined);
  }
}

async function examineRegistry(url: string): Promise<Finding> {
  const { address, credentials } = takeCredentials(url);
  const fix = `Check kafka.registry in abide.yaml. Workers still read records whose schemas they have read before. ${POLLED}`;
  try {
    const { statusCode, body } = await request(`${address.href.replace(/\/$/, '')}/subjects`, {
      headers: basicAuthorization(credentials),
      signal: AbortSignal.timeout(LOOK_MS_MAX),
    });
    if (statusCode !== 200) {
      await body.dump();
      return broken('registry', `${address.host} answers ${statusCode}`, fix);
    }
    // Debezium registers it only once, with its first heartbeat.
    const subjects = (await body.json()) as readonly string[];
    return subjects.includes(`${HEARTBEAT_TOPIC}-value`)
      ? fine('registry', 'answers, and has the schemas')
      : broken(
          'registry',
          'answers, but lacks the schemas that Debezium writes with: records of the lost schemas are unreadable',
          `They are registered when the task starts: POST /connectors/abide/restart?includeTasks=true. ${POLLED}`,
        );
  } catch (error) {
    return broken(
      'registry',
      `${address.host}: ${error instanceof Error ? error.message : String(error)}`,
      fix,
    );
  }
}

const CONNECTOR: Readonly<Record<Exclude<TaskState, 'running'>, readonly [says: string, fix: string]>> = {
  starting: ['its task does not run yet', 'Wait a moment: Connect is moving or starting it.'],
  paused: ['it is paused', `Resume it: PUT /connectors/abide/resume. ${POLLED}`],
  failed: ['its task failed', `The API restarts it every second: Connect's log says why it fails. ${POLLED}`],
  missing: [
    'it is not registered',
    `The API registers it: check that it runs and reaches Connect. ${POLLED}`,
  ],
  unknown: ['Connect does not answer', `Check kafka.connect in abide.yaml, and that it runs. ${POLLED}`],
};

async function examineConnector(url: string): Promise<Finding> {
  const connect = createConnectApi(url);
  const state = await connect.state();
  if (state === 'running') {
    if (await connect.isRegistered().catch(() => true))
      return fine('connector', 'is registered, and its task runs');
    return attention(
      'connector',
      'its task runs, but with other settings than this version has',
      'Restart the API: it registers its own settings.',
    );
  }
  const [says, fix] = CONNECTOR[state];
  return broken('connector', says, fix);
}

async function examineSlot(db: Queryable): Promise<Finding> {
  try {
    const { rows } = await db.query<{ active: boolean; retained: number | null; status: string | null }>(
      `select active, wal_status as status, pg_wal_lsn_diff(pg_current_wal_lsn(), restart_lsn)::float8 as retained
       from pg_replication_slots where slot_name = 'abide_kafka' and database = current_database()`,
    );
    const [slot] = rows;
    if (slot === undefined) {
      return broken(
        'slot',
        'abide_kafka is missing',
        'The connector makes it when its task starts: see the connector.',
      );
    }
    if (slot.status === 'lost') {
      return broken(
        'slot',
        'the server gave up the log that it kept for the slot',
        "The API drops it: check that it runs with a replication_database. Or run select pg_drop_replication_slot('abide_kafka').",
      );
    }
    const retained = slot.retained ?? 0;
    const says = `${slot.active ? 'in use' : 'not in use'}, ${Math.round(retained / 1024 ** 2)} MiB of log kept for it`;
    if (slot.active && retained < RETAINED_MAX) return fine('slot', says);
    return attention(
      'slot',
      says,
      'The disk fills up until the slot is read: fix the connector, or drop the slot for good.',
    );
  } catch {
    return broken('slot', 'the database cannot be asked', 'See the findings on the database.');
  }
}

const inTime = <T>(work: Promise<T>): Promise<T> =>
  Promise.race([
    work,
    delay(LOOK_MS_MAX, undefined, { ref: false }).then(() => {
      throw new Error('no answer in time');
    }),
  ]);
