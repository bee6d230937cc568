import type { Kafka } from 'kafkajs';
import { readTopics } from './files.ts';

/**
 * Makes the topics of topics.json that are not there, with the brokers' own replication factor. What is there is left as it
 * is. A topic that was deleted under a running task is waited for by Connect's producer, which does not make it itself.
 */
export async function ensureTopics(kafka: Kafka): Promise<readonly string[]> {
  const admin = kafka.admin();
  await admin.connect();
  try {
    const there = new Set(await admin.listTopics());
    const missing = [...readTopics()].filter(([topic]) => !there.has(topic));
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
  } finally {
    await admin.disconnect();
  }
}
