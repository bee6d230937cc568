import { expect, test } from '@jest/globals';
import { createFreshReading } from '../../ledger/fresh-reading.ts';

/** Readings that end when the test says so; `begun` holds those that began. */
function readings() {
  const begun: PromiseWithResolvers<number>[] = [];
  const waiting: (() => void)[] = [];
  return {
    begun,
    read: (): Promise<number> => {
      const reading = Promise.withResolvers<number>();
      begun.push(reading);
      for (const wake of waiting.splice(0)) wake();
      return reading.promise;
    },
    /** Waits until so many have begun. */
    untilBegun: async (count: number): Promise<void> => {
      while (begun.length < count) await new Promise<void>((wake) => waiting.push(wake));
    },
  };
}
const HANGS_MS = 20;
/** Longer than any test takes. */
const NEVER_MS = 3_600_000;
const settled = async (): Promise<void> => new Promise((resolve) => setImmediate(resolve));

test('whoever asks while a reading is under way gets the next one, and all of them the same', async () => {
  const { begun, read, untilBegun } = readings();
  const fresh = createFreshReading(read, NEVER_MS);

  const first = fresh();
  await untilBegun(1);
  const [second, third] = [fresh(), fresh()];
  await settled();
  expect(begun).toHaveLength(1);
  begun[0]!.resolve(1);
  await untilBegun(2);
  begun[1]!.resolve(2);

  expect(await Promise.all([first, second, third])).toEqual([1, 2, 2]);
  expect(begun).toHaveLength(2);
});

test('nobody gets what was read before: each who asks after the last one was answered has it read anew', async () => {
  let read = 0;
  const fresh = createFreshReading(async () => Promise.resolve((read += 1)));

  expect([await fresh(), await fresh(), await fresh()]).toEqual([1, 2, 3]);
});

test('a reading that fails fails those who waited for it, and not the next', async () => {
  const { begun, read, untilBegun } = readings();
  const fresh = createFreshReading(read, NEVER_MS);

  const first = fresh();
  await untilBegun(1);
  const second = fresh();
  begun[0]!.reject(new Error('the database is away'));
  await expect(first).rejects.toThrow('the database is away');
  await untilBegun(2);
  begun[1]!.resolve(2);

  expect(await second).toBe(2);
});

test('a reading that hangs holds up those who come after it for a while only', async () => {
  const { begun, read, untilBegun } = readings();
  const fresh = createFreshReading(read, HANGS_MS);

  const first = fresh();
  await untilBegun(1);
  const askedAt = performance.now();
  const second = fresh();
  await untilBegun(2);
  // A timer may end a millisecond early.
  expect(performance.now() - askedAt).toBeGreaterThanOrEqual(HANGS_MS - 1);
  begun[1]!.resolve(2);

  expect(await second).toBe(2);
  begun[0]!.resolve(1);
  expect(await first).toBe(1);
});
