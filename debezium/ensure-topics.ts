import { setTimeout as delay } from 'node:timers/promises';
import type { Admin, ITopicConfig, Kafka } from 'kafkajs';
import { AbideError } from '../suppression/errors.ts';
import { DECISIONS_TOPIC, HEARTBEAT_TOPIC, readTopics, readTopicsOfConnect } from './files.ts';
import type { TopicDefinition } from './files.ts';

/**
 * Makes the topics of topics.json that do not exist, with the brokers' own replication factor; an existing one is left as it is. If
 * a topic was deleted under a running task, Connect's producer waits for it and does not make it itself.
 *
 * It also waits for its own topics, which it makes only at its start: without one it hangs, and says that its task runs. Those that
 * are seen are put into `seen`, and made again as they were if they are gone. None is made that nobody had made before: in a
 * Connect of the user's own they may have other names.
 */
export async function ensureTopics(
  admin: Admin,
  seen = new Map<string, TopicDefinition>(),
): Promise<readonly string[]> {
  // Asks about all topics: naming one might make it, if the brokers make topics by themselves.
  const { topics } = await admin.fetchTopicMetadata();
  const there = new Map(topics.map(({ name, partitions }) => [name, partitions.length]));
  for (const topic of readTopicsOfConnect()) {
    const partitions = there.get(topic);
    if (partitions !== undefined) seen.set(topic, { partitions, config: { 'cleanup.policy': 'compact' } });
  }
  const missing = [...readTopics(), ...seen].filter(([topic]) => !there.has(topic));
  if (missing.length > 0) {
    await makeTopics(
      admin,
      missing.map(([topic, { partitions, config }]) => ({
        topic,
        numPartitions: partitions,
        replicationFactor: -1,
        configEntries: Object.entries(config).map(([name, value]) => ({ name, value })),
      })),
    );
  }
  return missing.map(([topic]) => topic);
}

const LEADERS_MS_MAX = 10_000;
const LOOK_MS = 100;

/**
 * Makes topics and returns once all of their partitions have leaders; those that exist stay as they are. The library's own wait fails
 * for a topic that was made, if the broker that it asks has not heard of it yet. Throws KAFKA_FAILED.
 */
export async function makeTopics(admin: Admin, topics: ITopicConfig[]): Promise<void> {
  await admin.createTopics({ waitForLeaders: false, topics });
  for (const until = performance.now() + LEADERS_MS_MAX; ; await delay(LOOK_MS)) {
    const { topics: all } = await admin.fetchTopicMetadata();
    const led = new Set(
      all.filter(({ partitions }) => partitions.every(({ leader }) => leader >= 0)).map(({ name }) => name),
    );
    const waiting = topics.filter(({ topic }) => !led.has(topic));
    if (waiting.length === 0) return;
    if (performance.now() > until)
      throw new AbideError(
        'KAFKA_FAILED',
        `The brokers give no leaders to ${waiting.map(({ topic }) => topic).join(', ')}.`,
      );
  }
}

/** Where the topics that Debezium writes end: the text changes once anything comes to one of them. */
export async function readEnds(admin: Admin): Promise<string> {
  const topics = await Promise.all(
    [DECISIONS_TOPIC, HEARTBEAT_TOPIC].map((topic) => admin.fetchTopicOffsets(topic)),
  );
  return topics.map((partitions) => partitions.map(({ high }) => high).join()).join(';');
}

/** Runs work on a line of its own to the brokers. */
export async function withAdmin<T>(kafka: Kafka, work: (admin: Admin) => Promise<T>): Promise<T> {
  const admin = kafka.admin();
  await admin.connect();
  try {
    return await work(admin);
  } finally {
    await admin.disconnect();
  }
}
