// Keeps the Kafka path alive without a hand, in the API's process. It makes missing topics, registers a connector that is missing
// or was registered by another version, restarts a task that FAILED or brings nothing, and drops a slot that the server gave up. It
// also tells the lag: a task that does not run is a stream that is down, however well the workers read an end where nothing
// arrives.
import { setTimeout as delay } from 'node:timers/promises';
import type { Admin } from 'kafkajs';
import type { Configuration } from '../config/configuration.ts';
import type { Log } from '../connectors/contract/connector.ts';
import { createConnectApi, readConnector } from '../debezium/connect-api.ts';
import type { TaskState } from '../debezium/connect-api.ts';
import { ensureTopics, readEnds, withAdmin } from '../debezium/ensure-topics.ts';
import type { TopicDefinition } from '../debezium/files.ts';
import type { LagReport, SourceLag } from '../ledger/contract/propagation-lag.ts';
import type { Queryable } from '../ledger/database.ts';
import { endSlotReader } from '../ledger/end-slot-reader.ts';
import { dropLostSlot } from '../ledger/lost-slot.ts';
import { createKafka } from '../stream/kafka-client.ts';
import { worstStatus } from '../suppression/acknowledgement.ts';
import type { SourceStatus } from '../suppression/acknowledgement.ts';
import { createSilentTask } from './silent-task.ts';

const LOOK_MS = 1_000;
const TOPICS_MS = 5_000;
const SLOT_MS = 5_000;
const SLOT = readConnector()['slot.name']!;
/** What makes a task fail mostly makes it fail again a second later: that is no news. */
const SAME_FAILURE_MS = 60_000;
/** A state older than this counts as unknown. */
const STALE_MS = 10_000;

export type KafkaPath = AsyncDisposable & {
  /** The lag, with what is known of the task in Kafka's entry, which is there even if no worker was ever heard of. */
  seenIn(report: LagReport): LagReport;
};

export function tendKafkaPath({
  kafka,
  db,
  replicationUrl,
  log,
}: {
  kafka: Configuration['kafka'];
  db: Queryable;
  replicationUrl: string;
  log: Log;
}): KafkaPath {
  const stopping = new AbortController();
  const connect = createConnectApi(kafka.connect);
  const client = createKafka({ address: kafka, clientId: 'abide-api', log });
  let state: TaskState = 'unknown';
  let seenAt = -Infinity;

  const always = async (pauseMs: number, what: string, look: () => Promise<void>): Promise<void> => {
    let failing = false;
    while (!stopping.signal.aborted) {
      try {
        await look();
        failing = false;
      } catch (error) {
        if (!failing) log.warn({ error }, `${what}, will try again`);
        failing = true;
      }
      await delay(pauseMs, undefined, { signal: stopping.signal }).catch(() => undefined);
    }
  };

  let failedAt = -Infinity;
  /** Looked at only once: two versions side by side for a while would register theirs in turns, each time a new task. */
  let isRegistered = false;
  /**
   * Connect goes by what it remembers of a topic that was made again. Until the connector is in that topic once more, the next join
   * of its group is followed by 300 more a second, without end, and a request to pause the connector is not heard.
   */
  let isForgotten = false;
  /** Since then Connect may show for good what it had last read of a task: it never read what the task said next. */
  let wereMadeAgain = false;
  const isStuck = createSilentTask();
  async function mend(): Promise<void> {
    const isStarting = wereMadeAgain && state === 'starting';
    if (isStuck({ progress: state, isDue: isStarting, nowMs: performance.now() })) {
      log.warn({ state }, "the connector's task does not start running: it is restarted");
      await connect.restart();
    }
    if (state === 'failed') {
      const now = performance.now();
      if (now - failedAt > SAME_FAILURE_MS)
        log.warn({}, "the connector's task failed: it is restarted until it runs");
      failedAt = now;
      await connect.restartFailed();
    }
    if (state === 'missing') isRegistered = false;
    if (isRegistered || state === 'unknown') return;
    if (isForgotten || !(await connect.isRegistered())) {
      await connect.register({ again: isForgotten });
      isForgotten = false;
      log.warn(
        { state },
        'the connector was missing, forgotten, or had other settings than this version has: it is registered again',
      );
    }
    isRegistered = true;
  }

  const isSilent = createSilentTask();
  async function restartSilent(progress: string | undefined): Promise<void> {
    if (!isSilent({ progress, isDue: state === 'running', nowMs: performance.now() })) return;
    log.warn({}, "the connector's task runs but brings nothing, not even its heartbeat: it is restarted");
    // A task waits for the registry on a dead line without a bound, and Connect starts the next task beside it: the one that hangs
    // would keep the slot for good.
    await endSlotReader(replicationUrl, SLOT).catch((error: unknown) => {
      log.warn({ error, slot: SLOT }, 'the reader of the slot could not be ended');
    });
    await connect.restart();
  }

  const ofConnect = new Map<string, TopicDefinition>();
  async function makeMissing(admin: Admin): Promise<void> {
    const made = await ensureTopics(admin, ofConnect);
    if (made.length > 0) log.warn({ topics: made }, 'topics were missing: they are made');
    if (made.some((topic) => ofConnect.has(topic))) {
      isForgotten = wereMadeAgain = true;
      isRegistered = false;
    }
  }

  /** Both looks on one line to the brokers; if one of them fails, the other still counts. */
  async function tendTopics(): Promise<void> {
    let ends: string | undefined;
    try {
      await withAdmin(client, async (admin) => {
        try {
          // Before their ends are read, which names them and might make them, if the brokers make topics by themselves.
          await makeMissing(admin);
        } finally {
          ends = await readEnds(admin);
        }
      });
    } finally {
      await restartSilent(ends);
    }
  }

  const tended = [
    always(LOOK_MS, 'the connector could not be checked', async () => {
      state = await connect.state();
      seenAt = performance.now();
      await mend();
    }),
    always(SLOT_MS, 'the replication slot could not be checked', async () => {
      if (await dropLostSlot(db, replicationUrl, SLOT))
        log.warn(
          { slot: SLOT },
          'the server had given up the slot: it is dropped, and the task makes a new one',
        );
    }),
    always(TOPICS_MS, 'the topics, and whether the task brings anything, could not be checked', tendTopics),
  ];
  return {
    seenIn: (report) => withTask(report, performance.now() - seenAt > STALE_MS ? 'unknown' : state),
    [Symbol.asyncDispose]: async () => {
      stopping.abort();
      await Promise.race([Promise.all(tended), delay(2_000, undefined, { ref: false })]);
    },
  };
}

const STATUS_OF: Readonly<Record<TaskState, SourceStatus>> = {
  running: 'ok',
  starting: 'catching_up',
  paused: 'down',
  failed: 'down',
  missing: 'down',
  unknown: 'unknown',
};
function withTask(report: LagReport, task: TaskState): LagReport {
  const silent: SourceLag = {
    kind: 'kafka',
    status: 'unknown',
    position_age_seconds: null,
    retained_wal_bytes: null,
    slot: null,
    redriven: 0,
  };
  const others = report.sources.filter(({ kind }) => kind !== 'kafka');
  const own = report.sources.find(({ kind }) => kind === 'kafka') ?? silent;
  const status = worstStatus([own.status, STATUS_OF[task]]);
  const { redriven, ...rest } = own;
  return { ...report, sources: [{ ...rest, status, task, redriven }, ...others] };
}
