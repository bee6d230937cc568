import type { Admin, Kafka } from 'kafkajs';
import { DECISIONS_TOPIC, HEARTBEAT_TOPIC, readTopics, readTopicsOfConnect } from './files.ts';
import type { TopicDefinition } from './files.ts';

/**
 * Makes the topics of topics.json that are not there, with the brokers' own replication factor. What is there is left as it
 * is. A topic that was deleted under a running task is waited for by Connect's producer, which does not make it itself.
 *
 * So is one of Connect's own, which it makes at its start alone: it hangs then, and says that its task runs. Those that are
 * seen are put into `seen`, and made again as they were where they are there no more. None is made that nobody had made
 * before: in a Connect of the user's own they may have other names.
 */
export async function ensureTopics(
  kafka: Kafka,
  seen = new Map<string, TopicDefinition>(),
): Promise<readonly string[]> {
  return await withAdmin(kafka, async (admin) => {
    // Of all topics: by its name one might be made, where the brokers make them by themselves.
    const { topics } = await admin.fetchTopicMetadata();
    const there = new Map(topics.map(({ name, partitions }) => [name, partitions.length]));
    for (const topic of readTopicsOfConnect()) {
      const partitions = there.get(topic);
      if (partitions !== undefined) seen.set(topic, { partitions, config: { 'cleanup.policy': 'compact' } });
    }
    const missing = [...readTopics(), ...seen].filter(([topic]) => !there.has(topic));
    if (missing.length > 0) {
      await admin.createTopics({
        waitForLeaders: true,
        topics: missing.map(([topic, { partitions, config }]) => ({
          topic,
          numPartitions: partitions,
          replicationFactor: -1,
          configEntries: Object.entries(config).map(([name, value]) => ({ name, value })),
        })),
      });
    }
    return missing.map(([topic]) => topic);
  });
}

/** Where the topics that Debezium writes end: another text once anything came to one of them. */
export async function readEnds(kafka: Kafka): Promise<string> {
  return await withAdmin(kafka, async (admin) => {
    const topics = await Promise.all(
      [DECISIONS_TOPIC, HEARTBEAT_TOPIC].map((topic) => admin.fetchTopicOffsets(topic)),
    );
    return topics.map((partitions) => partitions.map(({ high }) => high).join()).join(';');
  });
}

async function withAdmin<T>(kafka: Kafka, work: (admin: Admin) => Promise<T>): Promise<T> {
  const admin = kafka.admin();
  await admin.connect();
  try {
    return await work(admin);
  } finally {
    await admin.disconnect();
  }
}
