// The topic as a change source, with one consumer group per store. What is read is handed to the worker without waiting for its
// answer, up to IN_HAND_MAX; an offset is committed once everything up to it was answered for. So a crash reads again what was
// under way, and one decision that a store chokes on holds up the commit of its partition and nothing else.
//
// Nothing here needs to be complete: while the broker is away, the registry does not answer, or a record cannot be read, the ledger
// drives what is due.
import { Agent as HttpAgent } from 'node:http';
import { Agent as HttpsAgent } from 'node:https';
import { setTimeout as delay } from 'node:timers/promises';
import { SchemaRegistry } from '@kafkajs/confluent-schema-registry';
import type { Consumer, EachBatchPayload, Kafka, KafkaMessage } from 'kafkajs';
import type { SourceReport, SourceStatus } from '../suppression/acknowledgement.ts';
import type { Decision } from '../suppression/decision.ts';
import { AbideError } from '../suppression/errors.ts';
import type { ChangeListener, ChangeSource } from './change-source.ts';
import { UnreadableRecord, createDecisionReader } from './decision-record.ts';
import type { FetchSchema } from './decision-record.ts';
import { feelPulseAlways } from './feel-pulse.ts';
import type { KafkaLog } from './kafka-client.ts';
import { createParking } from './park-record.ts';
import { takeCredentials } from './url-credentials.ts';

/** Less than a worker holds at most (10,000), with room for a page of the ledger. */
const IN_HAND_MAX = 6_000;
/** Records handed over together; between two such pieces the group hears from us. */
const TOGETHER = 500;
/**
 * While records come, the distance between fetches grows with the square of the time that the worker takes to answer for one,
 * within these bounds: the busier everything is, the more records share what a fetch and its consequences cost; and while the
 * answer is quick, nothing waits. At APART_MS_EVEN both are equal. The first fetch after a pause waits for nothing.
 */
const APART_MS_MIN = 5;
const APART_MS_EVEN = 20;
const APART_MS_MAX = 40;
const COMMIT_MS = 500;
const LOOK_MS = 250;
/** An idle fetch returns after 250 ms; a broker that is silent for this long is gone. */
const SILENT_MS_MAX = 3_000;
/** A start that takes longer is reported as down: the ledger is polled meanwhile. */
const STARTING_MS_MAX = 3_000;
const STOP_MS_MAX = 2_000;
/** Debezium's heartbeat, written every second, goes the whole way of a decision; if it does not come, nothing does. */
const PULSELESS_MS_MAX = 4_000;
/** Partitions may be added: what is written to them before we know of them must not seem lost, which it does after 5 s. */
const METADATA_MS_MAX = 2_000;
const REGISTRY_MS_MAX = 5_000;
/** A record that cannot be read is seldom alone: for this long after it the stream is not trusted. */
const UNREADABLE_MS = 5_000;
const RETRY_MS_MAX = 5_000;

/** The consumer group of a store. */
export const groupOf = (store: string): string => `abide-${store}`;

/**
 * A registry behind its Confluent-compatible interface; `url` may carry a user and a password. Rejects if it has not answered
 * within `msMax`.
 */
export function createSchemaFetch(url: string, { msMax = REGISTRY_MS_MAX } = {}): FetchSchema {
  return async (id) => {
    const { address, credentials } = takeCredentials(url);
    const Agent = address.protocol === 'https:' ? HttpsAgent : HttpAgent;
    // A client per question: one that is kept goes on waiting for an answer that hung or was cut off, whoever asks again.
    const agent = new Agent();
    const registry = new SchemaRegistry({
      host: address.href.replace(/\/$/, ''),
      agent,
      retry: { retries: 0 },
      ...(credentials === undefined ? {} : { auth: credentials }),
    });
    try {
      const late = delay(msMax, undefined, { ref: false }).then(() => {
        throw new Error('the registry does not answer');
      });
      const schema: unknown = await Promise.race([registry.getSchema(id), late]);
      return (schema as { schema(): object }).schema();
    } catch (error) {
      if (error instanceof Error && 'status' in error && error.status === 404) return undefined;
      throw error;
    } finally {
      agent.destroy();
    }
  };
}

/** Whether a batch is still ours to read, and the sign of life to the group. */
type Reading = { readonly goesOn: () => boolean; readonly heartbeat: () => Promise<void> };
/** What was handed over from one partition, oldest first. */
type Piece = { readonly next: bigint; readonly handedAt: number; done: boolean };
type Partition = {
  readonly pieces: Piece[];
  /** How many records we were behind the end of the partition when it was last read. */
  behind: bigint;
  next: bigint;
  /** When the last record read was written. */
  writtenAt: number;
};

/**
 * Reads `topic` in the group of `store`, and trusts it while `pulseTopic` grows: the end of a topic that nobody writes to looks
 * like one where nothing happens. A client that gives up for good is followed by another one.
 */
export function createKafkaSource({
  kafka,
  fetchSchema,
  store,
  topic,
  pulseTopic,
  parkedTopic,
  log,
}: {
  kafka: Kafka;
  fetchSchema: FetchSchema;
  store: string;
  topic: string;
  pulseTopic: string;
  parkedTopic: string;
  log: KafkaLog;
}): ChangeSource {
  const stopping = new AbortController();
  const read = createDecisionReader(fetchSchema);
  const parking = createParking({ kafka, topic, group: groupOf(store), parkedTopic, log });
  let partitions = new Map<number, Partition>();
  let inHand = 0;
  const waiters = new Set<() => void>();
  let isMember = false;
  /** How many clients have failed since one last read. */
  let failedClients = 0;
  /** What was fetched before says nothing of the client that came after it. */
  let failedAt = -Infinity;
  /** Batches that wait for the worker or the registry: no fetch happens meanwhile, and none is missed. */
  let waiting = 0;
  let registryAway = false;
  let unreadableAt = -Infinity;
  let fetchedAt = -Infinity;
  /** How long the worker took for what it answered last. */
  let answeredMs = 0;
  let pulseAt = -Infinity;
  let startedAt = -Infinity;
  let isLive: boolean | undefined;
  let running: Promise<void> = Promise.resolve();

  const makeRoom = (): void => {
    for (const wake of [...waiters]) wake();
  };

  const status = (): SourceStatus => {
    if (isLive === undefined) return 'unknown';
    if (!isLive) return 'down';
    return waiting > 0 || [...partitions.values()].some(({ behind }) => behind > 0n) ? 'catching_up' : 'ok';
  };

  // ---- reading ------------------------------------------------------------------------------------------------------

  async function readBatch(listener: ChangeListener, payload: EachBatchPayload): Promise<void> {
    const { batch } = payload;
    const reading: Reading = {
      goesOn: () => payload.isRunning() && !payload.isStale() && !stopping.signal.aborted,
      heartbeat: () => payload.heartbeat(),
    };
    for (let from = 0; from < batch.messages.length; from += TOGETHER) {
      const messages = batch.messages.slice(from, from + TOGETHER);
      // Room is taken in the step that finds it: partitions are read side by side, and each would find the same room.
      let hasRoom = false;
      const takeRoom = (): boolean => {
        hasRoom = inHand + messages.length <= IN_HAND_MAX;
        if (hasRoom) inHand += messages.length;
        return hasRoom;
      };
      await waitFor(takeRoom, reading);
      if (!hasRoom) return;
      let decisions: Decision[] | undefined;
      try {
        decisions = await decode(listener, batch.partition, messages, reading);
      } finally {
        inHand -= messages.length - (decisions?.length ?? 0);
      }
      if (decisions === undefined) return;
      if (!reading.goesOn()) {
        inHand -= decisions.length;
        return;
      }
      handOver(listener, batch.partition, messages.at(-1)!, decisions, BigInt(batch.highWatermark));
      payload.resolveOffset(messages.at(-1)!.offset);
      await payload.heartbeat();
    }
    // The library fetches again once all that it fetched was read.
    const busyMs = Math.max(answeredMs, openMs());
    const apartMs = Math.min(APART_MS_MAX, Math.max(APART_MS_MIN, busyMs ** 2 / APART_MS_EVEN));
    const leftMs = fetchedAt + apartMs - performance.now();
    if (leftMs > 0) await delay(leftMs, undefined, { ref: false });
  }

  /** How long the worker has had the oldest of what it has not answered for yet. */
  function openMs(): number {
    const now = performance.now();
    const open = [...partitions.values()].map(({ pieces }) => pieces.find(({ done }) => !done));
    return now - Math.min(now, ...open.map((piece) => piece?.handedAt ?? now));
  }

  function handOver(
    listener: ChangeListener,
    number: number,
    last: KafkaMessage,
    decisions: readonly Decision[],
    end: bigint,
  ): void {
    const next = BigInt(last.offset) + 1n;
    const piece: Piece = { next, handedAt: performance.now(), done: decisions.length === 0 };
    const { pieces = [] } = partitions.get(number) ?? {};
    pieces.push(piece);
    partitions.set(number, { pieces, next, behind: end - next, writtenAt: Number(last.timestamp) });
    if (piece.done) return;
    listener
      .decisions(decisions)
      .catch((error: unknown) => log.error({ error }, 'a listener failed'))
      .finally(() => {
        piece.done = true;
        answeredMs = performance.now() - piece.handedAt;
        inHand -= decisions.length;
        makeRoom();
      });
  }

  /** Undefined if the consumer stops meanwhile. */
  async function decode(
    listener: ChangeListener,
    partition: number,
    messages: readonly KafkaMessage[],
    reading: Reading,
  ): Promise<Decision[] | undefined> {
    const decisions: Decision[] = [];
    for (const message of messages) {
      for (let failures = 0; ; failures += 1) {
        try {
          const decision = read(message.value);
          decisions.push(decision instanceof Promise ? await whileBeating(decision, reading) : decision);
          if (failures > 0) registryAway = false;
          break;
        } catch (error) {
          if (error instanceof UnreadableRecord) {
            parking.park(partition, message, error);
            // The ledger has the decision, and is read now, not once it seems to be lost: that takes 5 s, and is an alarm.
            unreadableAt = performance.now();
            look(listener);
            break;
          }
          // The registry is away: the record waits, but its decision does not, since the ledger is polled while we are down.
          if (!registryAway) {
            const status = error instanceof Error && 'status' in error ? error.status : undefined;
            log.warn(
              { partition, status, error },
              'the schema registry does not give a schema: the ledger is polled',
            );
          }
          registryAway = true;
          look(listener);
          const until = performance.now() + Math.min(RETRY_MS_MAX, 250 * 2 ** failures);
          await waitFor(() => performance.now() > until, reading);
          if (!reading.goesOn()) return undefined;
        }
      }
    }
    return decisions;
  }

  /** The group hears from us meanwhile: a registry on a dead line takes nearly as long as the group waits for a silent member. */
  async function whileBeating<T>(work: Promise<T>, { heartbeat }: Reading): Promise<T> {
    // If the group refuses a heartbeat, the next one outside says so.
    const beating = setInterval(() => void heartbeat().catch(() => undefined), LOOK_MS);
    try {
      return await work;
    } finally {
      clearInterval(beating);
    }
  }

  /** Waits while the group hears from us: it would take a silent member's partitions away. */
  async function waitFor(holds: () => boolean, { goesOn, heartbeat }: Reading): Promise<void> {
    if (holds()) return;
    waiting += 1;
    try {
      while (!holds() && goesOn()) {
        await new Promise<void>((resolve) => {
          const wake = (): void => {
            clearTimeout(timer);
            waiters.delete(wake);
            resolve();
          };
          const timer = setTimeout(wake, LOOK_MS);
          waiters.add(wake);
        });
        await heartbeat();
      }
    } finally {
      waiting -= 1;
    }
  }

  // ---- committing -----------------------------------------------------------------------------------------------------

  /** Offsets up to which everything was answered for, taken off the pieces that wait. */
  function answered(): { topic: string; partition: number; offset: string }[] {
    return [...partitions].flatMap(([partition, { pieces }]) => {
      const open = pieces.findIndex(({ done }) => !done);
      const count = open < 0 ? pieces.length : open;
      if (count === 0) return [];
      const offset = String(pieces[count - 1]!.next);
      pieces.splice(0, count - 1);
      return [{ topic, partition, offset }];
    });
  }

  const committed = new Map<number, string>();
  async function commit(consumer: Consumer): Promise<void> {
    const fresh = answered().filter(({ partition, offset }) => committed.get(partition) !== offset);
    if (fresh.length === 0) return;
    await consumer.commitOffsets(fresh);
    for (const { partition, offset } of fresh) committed.set(partition, offset);
  }

  // ---- life -----------------------------------------------------------------------------------------------------------

  /** Says so when the stream begins to deliver, or ceases to. */
  function look(listener: ChangeListener): void {
    const now = performance.now();
    const hasPulse = now - pulseAt < PULSELESS_MS_MAX;
    const reads = waiting > 0 || (fetchedAt > failedAt && now - fetchedAt < SILENT_MS_MAX);
    const isReadable = now - unreadableAt > UNREADABLE_MS;
    const delivers = isMember && !registryAway && isReadable && hasPulse && reads;
    if (delivers === isLive || stopping.signal.aborted) return;
    if (isLive === undefined && !delivers && now - startedAt < STARTING_MS_MAX) return;
    isLive = delivers;
    if (delivers) listener.live();
    else {
      const reasons = {
        registry: registryAway,
        'not a member': !isMember,
        unreadable: !isReadable,
        silent: !reads,
      };
      const [reason] = Object.entries(reasons).find(([, holds]) => holds) ?? ['no heartbeat'];
      log.warn({ store, reason }, 'the stream does not deliver: the ledger is polled');
      listener.down(reason);
    }
  }

  /** One consumer's life. Rejects if it cannot start, when it gives up (with the reason), and when it is told to stop. */
  async function consume(listener: ChangeListener): Promise<void> {
    const consumer = kafka.consumer({
      groupId: groupOf(store),
      sessionTimeout: 6_000,
      heartbeatInterval: 1_000,
      rebalanceTimeout: 6_000,
      maxWaitTimeInMs: 250,
      metadataMaxAge: METADATA_MS_MAX,
      allowAutoTopicCreation: false,
    });
    const ending = Promise.withResolvers<never>();
    ending.promise.catch(() => undefined);
    const stop = (): void => ending.reject(stopping.signal.reason);
    consumer.on('consumer.group_join', () => {
      // Reading begins at what was committed; what is under way elsewhere is answered for separately.
      partitions = new Map();
      committed.clear();
      isMember = true;
      // What waited for a schema is read again, by us or by another member.
      registryAway = false;
      // A client that replaces a failed one is trusted only once it has read: it may fail for the same reason.
      if (failedClients === 0) fetchedAt = performance.now();
      look(listener);
    });
    consumer.on('consumer.fetch', () => {
      failedClients = 0;
      fetchedAt = performance.now();
      look(listener);
    });
    consumer.on('consumer.end_batch_process', ({ payload: { partition, offsetLag } }) => {
      // After the last record of a batch there may be offsets without a record: the end of a producer's transaction, say.
      const known = partitions.get(partition);
      if (known !== undefined) known.behind = BigInt(offsetLag);
    });
    consumer.on('consumer.crash', ({ payload: { error, restart } }) => {
      isMember = false;
      look(listener);
      if (restart || stopping.signal.aborted) return;
      // This is the only error whose reason the library loses.
      const hint =
        error.name === 'KafkaJSGroupCoordinatorNotFound'
          ? `: the brokers are gone, or it may not read the group ${groupOf(store)}`
          : '';
      // The process goes on: another one would fail the same way, over and over, and nobody would poll the ledger meanwhile.
      ending.reject(
        new AbideError('KAFKA_FAILED', `The Kafka client of ${store} gave up: ${error.message}${hint}`, {
          cause: error,
        }),
      );
    });
    const looking = setInterval(() => look(listener), LOOK_MS);
    let committing: Promise<void> | undefined;
    const timer = setInterval(() => {
      committing ??= commit(consumer)
        // The group moves its partitions around: the member that has them next reads again from the last commit.
        .catch((error: unknown) => log.debug({ error }, 'offsets were not committed, will try again'))
        .finally(() => (committing = undefined));
    }, COMMIT_MS);
    try {
      await consumer.connect();
      stopping.signal.throwIfAborted();
      await consumer.subscribe({ topic, fromBeginning: true });
      await consumer.run({
        autoCommit: false,
        eachBatchAutoResolve: false,
        partitionsConsumedConcurrently: 12,
        eachBatch: (payload) => readBatch(listener, payload),
      });
      stopping.signal.addEventListener('abort', stop, { once: true });
      stopping.signal.throwIfAborted();
      await ending.promise;
    } finally {
      stopping.signal.removeEventListener('abort', stop);
      clearInterval(looking);
      clearInterval(timer);
      const end = async (): Promise<void> => {
        await committing;
        await commit(consumer).catch(() => undefined);
        await consumer.disconnect();
      };
      isMember = false;
      await Promise.race([end(), delay(STOP_MS_MAX, undefined, { ref: false })]).catch(() => undefined);
    }
  }

  async function run(listener: ChangeListener): Promise<void> {
    while (!stopping.signal.aborted) {
      try {
        await consume(listener);
      } catch (error) {
        if (stopping.signal.aborted) return;
        failedClients += 1;
        failedAt = performance.now();
        if (failedClients === 1 || isLive !== false) {
          log.warn({ store, error }, 'Kafka cannot be read: the ledger is polled');
          isLive = false;
          listener.down('unreachable');
        }
        const pauseMs = Math.min(RETRY_MS_MAX, 200 * 2 ** failedClients) * (0.5 + Math.random() / 2);
        await delay(pauseMs, undefined, { signal: stopping.signal }).catch(() => undefined);
      }
    }
  }

  return {
    hasOtherWriters: true,
    start: (listener) => {
      startedAt = performance.now();
      const onPulse = (): void => {
        pulseAt = performance.now();
        look(listener);
      };
      running = Promise.all([
        run(listener),
        feelPulseAlways({ kafka, topic: pulseTopic, onPulse, log, signal: stopping.signal }),
      ]).then(
        () => undefined,
        (error: unknown) => log.error({ error }, 'the Kafka source stopped'),
      );
    },
    report: (): SourceReport => {
      const now = performance.now();
      // Behind the end, the position is as old as the last record read; at the end, as old as the last look at it.
      const ages = [...partitions.values()]
        .filter(({ behind }) => behind > 0n)
        .map(({ writtenAt }) => Math.max(0, Date.now() - writtenAt));
      const ageMs = Math.max(now - fetchedAt, now - pulseAt, ...ages);
      return {
        kind: 'kafka',
        status: status(),
        position:
          partitions.size === 0
            ? undefined
            : [...partitions]
                .toSorted(([a], [b]) => a - b)
                .map(([partition, { next }]) => `${partition}:${next}`)
                .join(',')
                .slice(0, 128),
        positionAgeSeconds: Number.isFinite(ageMs) ? Math.round(ageMs / 100) / 10 : undefined,
        parked: parking.count(),
      };
    },
    [Symbol.asyncDispose]: async () => {
      stopping.abort();
      makeRoom();
      // A line that hangs is not waited for.
      const ended = running.then(() => parking[Symbol.asyncDispose]());
      await Promise.race([ended, delay(STOP_MS_MAX + 500, undefined, { ref: false })]);
    },
  };
}
