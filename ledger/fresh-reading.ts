import { setTimeout as delay } from 'node:timers/promises';

const READING_MS_MAX = 2_000;

/**
 * Every caller gets what was read after it asked; while one reading is under way, all who come share the next one. The next one
 * does not wait longer than `readingMsMax` for a reading that hangs.
 */
export function createFreshReading<T>(
  read: () => Promise<T>,
  readingMsMax = READING_MS_MAX,
): () => Promise<T> {
  let underWay: Promise<unknown> = Promise.resolve();
  let next: Promise<T> | undefined;
  return () =>
    (next ??= Promise.race([underWay, delay(readingMsMax, undefined, { ref: false })]).then(() => {
      next = undefined;
      const reading = read();
      underWay = reading.catch(() => undefined);
      return reading;
    }));
}
