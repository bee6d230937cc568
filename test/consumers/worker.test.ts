import { expect, test } from '@jest/globals';
import { eventually } from '../harness/eventually.ts';
import { carry, decided } from './fakes.ts';

test('a decision is applied, read back and reported once', async () => {
  await using t = carry();
  const ada = decided('ada');
  await t.commit(ada);
  expect(t.store.suppressedOf('ada')).toEqual(['email', 'push', 'sms']);
  expect(t.ledger.acknowledgements).toMatchObject([
    { seq: ada.seq, version: 1, outcome: 'verified', held: { version: 1 }, carriedBy: 'stream', attempts: 1 },
  ]);
});

test('batches that begin together open the store once, and stopping closes it', async () => {
  await using t = carry({ declared: { limits: { batch: 1, concurrent: 4 } } });
  const opened: PromiseWithResolvers<void> = Promise.withResolvers();
  t.store.onOpen = () => opened.promise;
  const committed = t.commit(...['ada', 'bob', 'cyd', 'dan'].map((who) => decided(who)));
  await eventually(() => expect(t.ledger.pages.length).toBeGreaterThan(0));
  opened.resolve();
  await committed;
  expect(t.store.opened).toBe(1);
  await t.worker.stop();
  expect(t.store.closed).toBe(1);
});

test('a store that cannot be opened is opened again, and one that opens too late is closed again', async () => {
  await using t = carry({ callMsMax: 100 });
  const late: PromiseWithResolvers<void> = Promise.withResolvers();
  let openings = 0;
  t.store.onOpen = () => {
    openings += 1;
    if (openings === 1) return Promise.reject(new Error('refused'));
    return openings === 2 ? late.promise : Promise.resolve();
  };
  await t.commit(decided('ada'));
  expect(openings).toBe(3);
  expect(t.store.opened).toBe(1);
  late.resolve();
  await eventually(() => expect(t.store).toMatchObject({ opened: 2, closed: 1 }));
});

test('a call that the store never answers ends at the deadline, and leaves nothing behind', async () => {
  await using t = carry({ callMsMax: 100 });
  const signals: AbortSignal[] = [];
  const listeners = { added: 0, removed: 0 };
  let hanging = true;
  t.store.onApply = (_batch, signal) => {
    signals.push(signal);
    const { addEventListener, removeEventListener } = signal;
    signal.addEventListener = (...args: Parameters<typeof addEventListener>) => {
      listeners.added += 1;
      addEventListener.apply(signal, args);
    };
    signal.removeEventListener = (...args: Parameters<typeof removeEventListener>) => {
      listeners.removed += 1;
      removeEventListener.apply(signal, args);
    };
    return hanging ? new Promise(() => undefined) : Promise.resolve(undefined);
  };
  const committed = t.commit(decided('ada'));
  await eventually(() => expect(signals[0]?.aborted).toBe(true));
  hanging = false;
  await committed;
  expect(t.ledger.acknowledgements).toMatchObject([{ outcome: 'verified', attempts: 1 }]);
  expect(t.ledger.reports.at(-1)?.worker.lastError).toMatchObject({ code: 'STORE_TIMEOUT' });
  expect(listeners.added).toBeGreaterThan(0);
  expect(listeners.removed).toBe(listeners.added);
});
