// Debezium's heartbeat goes the whole way of a decision: while its topic grows, the way is open, even if nothing is decided.
import { setTimeout as delay } from 'node:timers/promises';
import type { Kafka } from 'kafkajs';
import type { KafkaLog } from './kafka-client.ts';

const PULSE_MS = 500;

/** Runs until `signal` aborts; tells each time the topic has grown. */
export async function feelPulseAlways({
  kafka,
  topic,
  onPulse,
  log,
  signal,
}: {
  kafka: Kafka;
  topic: string;
  onPulse: () => void;
  log: KafkaLog;
  signal: AbortSignal;
}): Promise<void> {
  for (let failures = 0; !signal.aborted; failures += 1) {
    await feelPulse().catch((error: unknown) => {
      if (signal.aborted) return;
      // Warn only once: while the brokers are away, much else says so.
      log[failures === 0 ? 'warn' : 'debug'](
        { topic, error },
        'the heartbeat cannot be read, will try again',
      );
    });
    await delay(PULSE_MS, undefined, { signal }).catch(() => undefined);
  }

  /** Rejects if the brokers do not answer for long: the client tries for a while by itself. */
  async function feelPulse(): Promise<void> {
    const admin = kafka.admin();
    try {
      await admin.connect();
      for (let end: string | undefined; !signal.aborted;) {
        const offsets = await admin.fetchTopicOffsets(topic);
        const now = offsets.map(({ high }) => high).join();
        if (end !== undefined && end !== now) onPulse();
        end = now;
        await delay(PULSE_MS, undefined, { signal });
      }
    } finally {
      await Promise.race([admin.disconnect(), delay(1_000, undefined, { ref: false })]).catch(
        () => undefined,
      );
    }
  }
}
