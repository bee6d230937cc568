// A record of the topic that cannot be read is kept with its bytes, counted and logged, and holds nobody up: its decision comes
// from the ledger.
import type { Kafka, KafkaMessage, Producer } from 'kafkajs';
import type { UnreadableRecord } from './decision-record.ts';
import type { KafkaLog } from './kafka-client.ts';

/** If more than this many are under way at once, a record is counted and logged, but not kept. */
const UNDER_WAY_MAX = 100;
/** If a schema is missing, no record can be read: within this time, records parked for the same reason are only counted. */
const SAID_MS = 10_000;

export type Parking = AsyncDisposable & {
  park(partition: number, message: KafkaMessage, error: UnreadableRecord): void;
  /** How many were parked. */
  count(): number;
};

export function createParking({
  kafka,
  topic,
  group,
  parkedTopic,
  log,
}: {
  kafka: Kafka;
  topic: string;
  group: string;
  parkedTopic: string;
  log: KafkaLog;
}): Parking {
  let parked = 0;
  const saidAt = new Map<string, number>();
  let underWay = 0;
  let producer: Promise<Producer> | undefined;

  async function connect(): Promise<Producer> {
    const made = kafka.producer({ retry: { retries: 2 } });
    await made.connect();
    return made;
  }

  async function keep(partition: number, { key, value, offset }: KafkaMessage, code: string): Promise<void> {
    producer ??= connect();
    producer.catch(() => (producer = undefined));
    const headers = { topic, partition: String(partition), offset, group, code };
    await (await producer).send({ topic: parkedTopic, messages: [{ key, value, headers }] });
  }

  return {
    park: (partition, message, { code, cause }) => {
      parked += 1;
      const { offset, value } = message;
      const now = performance.now();
      if (now - (saidAt.get(code) ?? -Infinity) > SAID_MS) {
        saidAt.set(code, now);
        log.error(
          { topic, partition, offset, bytes: value?.length ?? 0, code, error: cause, parked },
          'a record cannot be read: it is parked, and the ledger drives its decision',
        );
      }
      if (underWay >= UNDER_WAY_MAX) return;
      underWay += 1;
      keep(partition, message, code)
        .catch((error: unknown) => {
          log.warn({ partition, offset, error }, 'a parked record could not be kept');
        })
        .finally(() => {
          underWay -= 1;
        });
    },
    count: () => parked,
    [Symbol.asyncDispose]: async () => {
      await producer?.then((made) => made.disconnect()).catch(() => undefined);
    },
  };
}
