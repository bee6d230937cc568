import { setTimeout as delay } from 'node:timers/promises';
import { afterEach, beforeEach, describe, expect, jest, test } from '@jest/globals';
import { TryLater } from '../../connectors/contract/connector.ts';
import type { ApplyOutcome, Item, SubjectKey } from '../../connectors/contract/connector.ts';
import { toCarried, toReport } from '../../consumers/carried.ts';
import type { Decision } from '../../suppression/decision.ts';
import { AbideError } from '../../suppression/errors.ts';
import { eventually } from '../harness/eventually.ts';
import { FakeLedger, FakeStore, carry, decided } from './fakes.ts';
import type { Carrying } from './fakes.ts';

test('a decision is applied, read back and reported once', async () => {
  await using t = carry();
  const ada = decided('ada');
  await t.commit(ada);
  expect(t.store.suppressedOf('ada')).toEqual(['email', 'push', 'sms']);
  expect(t.ledger.acknowledgements).toMatchObject([
    { seq: ada.seq, version: 1, outcome: 'verified', held: { version: 1 }, carriedBy: 'stream', attempts: 1 },
  ]);
});

// Seen: whoever could write a record to the topic lifted anybody, in every store.
test('what a stream that others write to brings lifts only what the ledger gives out as well', async () => {
  await using t = carry({ source: { hasOtherWriters: true } });
  await t.commit(decided('ada'));
  const consent = decided('bob', { version: 2, suppressed: [], granted: { email: 2 } });
  const forged = decided('ada', { version: 50, suppressed: ['sms', 'push'], granted: { email: 50 } });
  t.ledger.add(decided('bob'));
  await t.worker.offer([forged, consent]);
  await eventually(() => expect(t.store.versionsOf('bob')).toEqual([1]));
  expect(t.store.suppressedOf('ada')).toEqual(['email', 'push', 'sms']);
  await t.commit(consent);
  await eventually(() => expect(t.store.suppressedOf('bob')).toEqual(['push', 'sms']));
  await eventually(() =>
    expect(t.ledger.acknowledgements.map(({ version, carriedBy }) => [version, carriedBy])).toEqual([
      [1, 'stream'],
      [1, 'catch_up'],
      [2, 'catch_up'],
    ]),
  );
  expect(t.store.versionsOf('ada')).toEqual([1]);
});

// Nobody could find such a version in the store and decide above it: the store would take nothing more of the person.
test.each([
  ['to a store that cannot be read', 'applied', 1_000],
  ['under a version that is nonsense', 'read_back', 2 ** 52 + 1],
] as const)(
  'what a stream that others write to brings %s is carried only if the ledger has it',
  async (_, evidence, version) => {
    await using t = carry({ declared: { evidence }, source: { hasOtherWriters: true } });
    const ada = decided('ada');
    t.ledger.add(ada);
    await t.worker.offer([decided('eve', { version }), ada]);
    await eventually(() => expect(t.ledger.settled.has(ada.seq)).toBe(true));
    expect(t.store.versionsOf('eve')).toEqual([]);
  },
);

// Found by reading: the store was told nothing more of the person, and nothing said so.
test.each([
  ['was not granted by any decision', { email: 0 }],
  ['the store does not hold', { 'email/other': 9 }],
])(
  'what a stream brings with a grant that %s keeps nothing from a store without versions',
  async (_, granted) => {
    await using t = carry({ declared: { versions: 'none' }, source: { hasOtherWriters: true } });
    await t.worker.offer([decided('ada', { version: 2 ** 40, suppressed: ['sms'], granted })]);
    const ada = decided('ada');
    await t.commit(ada);
    await eventually(() => expect(t.ledger.settled.has(ada.seq)).toBe(true));
    expect(t.store.suppressedOf('ada')).toEqual(['email', 'push', 'sms']);
  },
);

// Found by reading: a record that named a key of next week made every decision of that week unreadable, until a restart.
test('a transport key that there is not yet is asked for again', async () => {
  jest.useFakeTimers({ advanceTimers: true });
  try {
    await using t = carry();
    t.ledger.keys.clear();
    const eve = decided('eve');
    await t.worker.offer([eve]);
    t.ledger.keys.add(eve.transportKeyId!);
    const ada = t.ledger.add(decided('ada'));
    await jest.advanceTimersByTimeAsync(11_000);
    await eventually(() => expect(t.ledger.acknowledgements.map(({ seq }) => seq)).toContain(ada.seq));
  } finally {
    jest.useRealTimers();
  }
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

// Abide was given up as not stopped after 30 s, and left its database running.
test('a store that never closes does not hold the stop', async () => {
  await using t = carry({ callMsMax: 100 });
  t.store.onClose = () => new Promise(() => undefined);
  await t.commit(decided('ada'));

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

test('what a store lost or never took is asked for again until it holds it, with the error in the lag', async () => {
  await using t = carry();
  let failures = 2;
  t.store.onApply = () => {
    if ((failures -= 1) < 0) return Promise.resolve(undefined);
    return Promise.reject(Object.assign(new Error('connect'), { code: 'ECONNREFUSED' }));
  };
  await t.commit(decided('ada'), decided('bob'));
  expect(t.ledger.acknowledgements).toMatchObject([
    { outcome: 'verified', attempts: 1 },
    { outcome: 'verified', attempts: 1 },
  ]);
  expect(t.logged).toEqual(['store failed, will try again', 'store answers again']);
  expect(t.fields[0]).toEqual({ store: 'crm', code: 'STORE_UNREACHABLE', cause: 'ECONNREFUSED' });
  await eventually(() =>
    expect(t.ledger.reports.at(-1)?.worker.lastError).toMatchObject({ code: 'STORE_UNREACHABLE' }),
  );
});

test('a store that says yes and holds nothing is never verified, and ends in quarantine', async () => {
  await using t = carry();
  t.store.onReadBack = (keys) => Promise.resolve(keys.map(() => undefined));
  const ada = decided('ada');
  await t.commit(ada);
  expect(t.ledger.acknowledgements.map(({ outcome, code, attempts }) => [outcome, code, attempts])).toEqual(
    [1, 2, 3, 4, 5].map((attempts) => ['failed', 'NOT_HELD', attempts]),
  );
  expect(t.ledger.parked.get(ada.seq)).toBeDefined();
  expect(t.ledger.settled.size).toBe(0);
});

test('what the stream brings before the ledger sees it is reported again at once, and carried once', async () => {
  await using t = carry();
  const ada = decided('ada');
  t.ledger.unseen.set(ada.seq, 2);
  await t.commit(ada);
  expect(t.ledger.settled.get(ada.seq)).toMatchObject({ carriedBy: 'stream', attempts: 1 });
  expect(t.ledger.acknowledgements).toHaveLength(3);
});

test('what the ledger does not believe counts as a failure, and ends in quarantine as well', async () => {
  await using t = carry();
  const ada = decided('ada');
  t.ledger.disbelieved.add(ada.seq);
  await t.commit(ada);
  expect(t.ledger.parked.get(ada.seq)).toMatchObject({ outcome: 'failed', code: 'NOT_HELD', attempts: 5 });
});

test('one decision that the store chokes on is isolated and parked, and holds up nobody', async () => {
  await using t = carry();
  t.store.onApply = (batch) =>
    batch.some(({ key }) => key.startsWith('bad'))
      ? Promise.reject(new Error('chokes'))
      : Promise.resolve(undefined);
  const people = Array.from({ length: 40 }, (_, n) => decided(n === 23 ? 'bad' : `person-${n}`));
  const committed = t.commit(...people);
  await eventually(() => expect(t.ledger.settled.size).toBe(39));
  await t.commit(decided('later'));
  await committed;
  const outcomes = t.ledger.acknowledgements.filter(({ outcome }) => outcome !== 'verified');
  expect(new Set(outcomes.map(({ seq, code }) => `${seq} ${code}`))).toEqual(
    new Set([`${people[23]!.seq} STORE_FAILED`]),
  );
  expect([...t.ledger.parked.keys()]).toEqual([people[23]!.seq]);
  expect(t.ledger.acknowledgements.filter(({ outcome }) => outcome === 'verified')).toHaveLength(40);
});

// A check on the store's table refused a whole import of 3,000: each was isolated with up to 5 s after it, and the next person to
// opt out waited for all of them.
test('however many a store chokes on, whoever opts out next waits for two of its failures, and shows that it is not the store', async () => {
  await using t = carry({ declared: { limits: { batch: 50, concurrent: 2 } } });
  let failures = 0;
  t.store.onApply = (batch) => {
    if (!batch.some(({ key }) => key.startsWith('bad'))) return Promise.resolve(undefined);
    failures += 1;
    return Promise.reject(new Error('chokes'));
  };
  const bad = Array.from({ length: 200 }, (_, n) => decided(`bad-${n}`));
  const committed = t.commit(...bad);
  await eventually(() => expect(failures).toBeGreaterThan(4));
  let good = 0;
  for (; t.ledger.parked.size < bad.length; good += 1) {
    failures = 0;
    await t.commit(decided(`good-${good}`));
    expect(failures).toBeLessThanOrEqual(2);
    await eventually(() => expect(failures > 20 || t.ledger.parked.size === bad.length).toBe(true));
  }
  await committed;
  expect(t.ledger.settled.size).toBe(good);
});

test('whom a store chokes on are found among many within moments: its success with others costs no pause', async () => {
  await using t = carry();
  const pauses = jest.spyOn(globalThis, 'setTimeout');
  t.store.onApply = (batch) =>
    batch.some(({ key }) => key.startsWith('bad'))
      ? Promise.reject(new Error('chokes'))
      : Promise.resolve(undefined);
  const people = Array.from({ length: 400 }, (_, n) => decided(n % 20 === 7 ? `bad-${n}` : `person-${n}`));
  await t.commit(...people);
  const longest = Math.max(...pauses.mock.calls.map(([, ms]) => ms ?? 0));
  pauses.mockRestore();
  expect([t.ledger.settled.size, t.ledger.parked.size]).toEqual([380, 20]);
  expect(longest).toBeLessThan(2_000);
});

test('a store that asks to come later has neither failed nor been tried, and is left alone until then', async () => {
  await using t = carry();
  const asked: number[] = [];
  t.store.onApply = () => {
    asked.push(performance.now());
    return asked.length === 1 ? Promise.reject(new TryLater(300)) : Promise.resolve(undefined);
  };
  const committed = t.commit(decided('ada'));
  await eventually(() => expect(asked).toHaveLength(1));
  await t.commit(decided('bob'));
  await committed;
  expect(asked[1]! - asked[0]!).toBeGreaterThanOrEqual(299);
  expect(t.ledger.acknowledgements.map(({ outcome, attempts }) => [outcome, attempts])).toEqual([
    ['verified', 1],
    ['verified', 1],
  ]);
  expect(t.logged).toEqual([]);
  expect(t.ledger.reports.at(-1)?.worker.lastError).toBeUndefined();
});

// A connector that took a date for a number of seconds was asked without a pause, or not until the worker was started again.
test.each([2 ** 31, Infinity])(
  'a store that asks to come %d ms later is asked again in an hour',
  (delayMs) => {
    expect(new TryLater(delayMs).delayMs).toBe(3_600_000);
  },
);

test.each([0, -1, NaN])('a store that asks to come %d ms later is not asked without a pause', (delayMs) => {
  expect(new TryLater(delayMs).delayMs).toBe(1_000);
});

test('a store that asks to be left alone for long is late for a reason: in the lag, and once in the log', async () => {
  await using t = carry();
  t.store.onApply = () => Promise.reject(new TryLater(5_000));
  void t.commit(decided('ada'));
  await eventually(() => expect(t.ledger.reports.at(-1)?.worker.lastError?.code).toBe('STORE_ASKS_TO_WAIT'));
  await eventually(() => expect(t.store.applied).toHaveLength(2));
  expect(t.logged).toEqual(['the store asks to be left alone']);
});

test('what the store has answered of a batch is not carried again because of what it failed', async () => {
  await using t = carry({ declared: { versions: 'none' } });
  let lifts = 0;
  t.store.onApply = (batch) => {
    const lifting = batch.some(({ granted }) => Object.keys(granted).length > 0);
    return lifting && (lifts += 1) === 1 ? Promise.reject(new TryLater(20)) : Promise.resolve(undefined);
  };
  const grant = decided('bob', { version: 2, suppressed: ['sms'], granted: { email: 2 } });
  await t.commit(decided('ada'), grant);
  expect(t.store.versionsOf('ada')).toEqual([1]);
  expect(t.store.versionsOf('bob')).toEqual([2, 2]);
  expect(t.ledger.acknowledgements).toHaveLength(2);
});

// What the person had granted of the topic before is older than what the store holds, and meant nothing to it.
test.each([[['email/newsletter']], [['email', 'email/newsletter']]])(
  'a grant of a channel clears its topic in a store that holds %j, whatever was granted of that before',
  async (scopes) => {
    await using t = carry({ scopes, declared: { topics: true } });
    await t.commit(decided('ada', { suppressed: ['email/newsletter'] }));
    await t.commit(decided('ada', { version: 2, suppressed: [], granted: { 'email/newsletter': 2 } }));
    await t.commit(decided('ada', { version: 3, suppressed: ['email'], granted: { 'email/newsletter': 2 } }));
    await t.commit(
      decided('ada', { version: 4, suppressed: [], granted: { email: 4, 'email/newsletter': 2 } }),
    );
    expect(t.store.suppressedOf('ada')).toEqual([]);
    expect(t.ledger.acknowledgements.map(({ outcome }) => outcome)).toEqual(Array(4).fill('verified'));
  },
);

/** What somebody granted before the store was added, and what they grant now. */
const GRANTED_LONG_AGO = { email: { at: '2026-01-01T00:00:00.000Z', version: 2 } };
const GRANTED_NOW = { email: { at: '2026-11-25T00:00:00.000Z', version: 4 } };
const ADDED_AT = '2026-11-01T00:00:00.000Z';

test.each([true, false])(
  'what a store suppressed before it was added stays, whatever somebody had granted by then, can it be read (%j) or not',
  async (isRead) => {
    await using t = carry({ declared: isRead ? {} : { evidence: 'applied' } });
    t.ledger.targetSince = ADDED_AT;
    t.store.held.set('ada@example.com', { version: undefined, suppressed: new Set(['email']) });
    await t.commit({ ...decided('ada', { version: 2, suppressed: [] }), granted: GRANTED_LONG_AGO });
    expect(t.store.suppressedOf('ada')).toEqual(['email']);
    await t.commit({ ...decided('ada', { version: 3, suppressed: ['sms'] }), granted: GRANTED_LONG_AGO });
    await t.commit({ ...decided('ada', { version: 4, suppressed: ['sms'] }), granted: GRANTED_NOW });
    expect(t.store.suppressedOf('ada')).toEqual(['sms']);
    expect(t.ledger.acknowledgements.map(({ attempts }) => attempts)).toEqual([1, 1, 1]);
    expect(t.ledger.settled.size).toBe(3);
  },
);

test('a store that was told before, be it an older one of its backups, is told of every grant', async () => {
  await using t = carry();
  t.ledger.targetSince = ADDED_AT;
  t.store.held.set('ada@example.com', { version: 1, suppressed: new Set(['email']) });
  await t.commit({ ...decided('ada', { version: 2, suppressed: [] }), granted: GRANTED_LONG_AGO });
  expect(t.store.suppressedOf('ada')).toEqual([]);
});

test('a consent waits for what the store is being told of the same person, or it would not find that there, and not lift it', async () => {
  await using t = carry();
  t.ledger.targetSince = ADDED_AT;
  const applying = Promise.withResolvers<undefined>();
  t.store.onApply = (batch) => (batch[0]!.version === 1 ? applying.promise : Promise.resolve(undefined));
  // If it were read now, what is under way would be there a moment later.
  t.store.onReadBack = async (keys: readonly SubjectKey[]) => {
    const { key } = keys[0]!;
    if (key !== 'ada@example.com' || t.store.held.has(key)) return undefined;
    applying.resolve(undefined);
    await eventually(() => expect(t.store.held.has(key)).toBe(true));
    return [undefined];
  };
  const told = t.commit(decided('ada', { suppressed: ['email'] }));
  await eventually(() => expect(t.store.applied).toHaveLength(1));
  const lifted = t.commit({ ...decided('ada', { version: 2, suppressed: [] }), granted: GRANTED_LONG_AGO });
  await t.commit(decided('bob', { version: 2 }));
  applying.resolve(undefined);
  await Promise.all([told, lifted]);
  expect(t.store.suppressedOf('ada')).toEqual([]);
});

test('what a store that cannot be read was told to suppress is lifted, be the consent dated before the store was added', async () => {
  await using t = carry({ declared: { evidence: 'applied' } });
  t.ledger.targetSince = ADDED_AT;
  await t.commit(decided('ada', { suppressed: ['email'] }));
  await t.commit({ ...decided('ada', { version: 2, suppressed: [] }), granted: GRANTED_LONG_AGO });
  expect(t.store.suppressedOf('ada')).toEqual([]);
});

test('somebody absent, and somebody refused, is parked with the reason; a reason in words is not passed on', async () => {
  await using t = carry();
  const answers: Record<string, ApplyOutcome> = {
    ada: { kind: 'absent' },
    bob: { kind: 'refused', code: 'ADDRESS_INVALID' },
    cyd: { kind: 'refused', code: 'cyd@example.com is no address' },
  };
  t.store.onApply = (batch) =>
    Promise.resolve(batch.map((item) => answers[item.key.split('@')[0]!] ?? t.store.write(item)));
  await t.commit(...['ada', 'bob', 'cyd', 'dan'].map((who) => decided(who)));
  expect(t.ledger.acknowledgements.map(({ outcome, code }) => [outcome, code])).toEqual([
    ['absent', 'ABSENT'],
    ['refused', 'ADDRESS_INVALID'],
    ['refused', 'REFUSED'],
    ['verified', undefined],
  ]);
});

test('of what is read back only what can be so is reported', async () => {
  await using t = carry();
  t.store.onReadBack = (keys) =>
    Promise.resolve(
      keys.map(() => ({ version: '1' as never, suppressed: ['email', 'sms', 'push', 'ada@example.com'] })),
    );
  await t.commit(decided('ada'));
  expect(t.ledger.acknowledgements).toMatchObject([
    { outcome: 'verified', held: { version: undefined, suppressed: ['email', 'sms', 'push'] } },
  ]);
});

test('a store that holds very many topics of everybody is reported in pieces that the API takes', async () => {
  await using t = carry({ declared: { limits: { batch: 1_000, concurrent: 1 } } });
  const topics = Array.from({ length: 90 }, (_, n) => `email/${`${n}`.padStart(63, 'x')}`);
  t.store.onReadBack = (keys) =>
    Promise.resolve(keys.map(() => ({ version: 1, suppressed: ['email', 'sms', 'push', ...topics] })));
  await t.commit(...Array.from({ length: 1_000 }, (_, n) => decided(`person-${n}`)));
  expect(t.ledger.settled.size).toBe(1_000);
  const bytes = t.ledger.reports.map((report) => JSON.stringify(report).length);
  expect(Math.max(...bytes)).toBeLessThan(2 * 1024 * 1024);
});

test('live decisions go before back-fill', async () => {
  const ledger = new FakeLedger();
  for (let n = 0; n < 30; n += 1) ledger.add(decided(`old-${n}`), { lane: 'backfill' });
  await using t = carry({ ledger, declared: { limits: { batch: 10, concurrent: 1 } } });
  const first: PromiseWithResolvers<undefined> = Promise.withResolvers();
  t.store.onApply = () => (t.store.applied.length === 1 ? first.promise : Promise.resolve(undefined));
  await eventually(() => expect(t.store.applied).toHaveLength(1));
  const committed = t.commit(decided('ada'));
  first.resolve(undefined);
  await committed;
  await eventually(() => expect(ledger.settled.size).toBe(31));
  expect(t.store.applied.map((batch) => batch[0]!.lane)).toEqual([
    'backfill',
    'live',
    'backfill',
    'backfill',
  ]);
  expect(new Set(ledger.acknowledgements.map(({ carriedBy }) => carriedBy))).toEqual(
    new Set(['backfill', 'stream']),
  );
});

test('however large the back-fill, what only the ledger knows of goes before it', async () => {
  const ledger = new FakeLedger();
  for (let n = 0; n < 20_000; n += 1) ledger.add(decided(`old-${n}`), { lane: 'backfill' });
  await using t = carry({ ledger, declared: { limits: { batch: 1_000, concurrent: 1 } } });
  let answer: PromiseWithResolvers<undefined> = Promise.withResolvers();
  t.store.onApply = () => answer.promise;
  const goOn = async (): Promise<void> => {
    const batches = t.store.applied.length;
    const { resolve } = answer;
    answer = Promise.withResolvers();
    resolve(undefined);
    await eventually(() => expect(t.store.applied.length).toBeGreaterThan(batches));
  };
  await eventually(() => expect(ledger.pages.filter((rows) => rows === 2_000).length).toBeGreaterThan(2));
  const ada = ledger.add(decided('ada'));
  while (!ledger.settled.has(ada.seq)) await goOn();
  expect(ledger.settled.size).toBeLessThan(10_000);
  answer.resolve(undefined);
  t.store.onApply = () => Promise.resolve(undefined);
  await eventually(() => expect(ledger.settled.size).toBe(20_001));
});

test('while a back-fill is looked through of whom nobody is due, what only the ledger knows of is carried', async () => {
  const ledger = new FakeLedger();
  const read = ledger.outstanding.bind(ledger);
  let isOver = false;
  ledger.outstanding = async (ask) => {
    await delay(5);
    const page = await read({ ...ask, after: undefined });
    const { decisions } = ask.after === undefined ? page : { decisions: [] };
    return { ...page, decisions, next: isOver ? undefined : 'far to go' };
  };
  await using t = carry({ ledger });
  await eventually(() => expect(ledger.pages.length).toBeGreaterThan(5));
  const ada = ledger.add(decided('ada'));
  await eventually(() => expect(ledger.settled.has(ada.seq)).toBe(true));
  isOver = true;
  expect(t.store.suppressedOf('ada')).toEqual(['email', 'push', 'sms']);
});

test('a worker that is full and waits for a slow store sees that the store is paused', async () => {
  const ledger = new FakeLedger();
  for (let n = 0; n < 12_000; n += 1) ledger.add(decided(`person-${n}`));
  await using t = carry({ ledger, declared: { limits: { batch: 10, concurrent: 1 } } });
  const answer: PromiseWithResolvers<undefined> = Promise.withResolvers();
  t.store.onApply = () => answer.promise;
  await eventually(() => expect(ledger.pages.length).toBeGreaterThan(4));
  ledger.paused = true;
  await eventually(() => expect(t.logged.join()).toContain('paused'));
  answer.resolve(undefined);
  await eventually(() => expect(ledger.settled.size).toBe(10));
  expect(t.store.applied).toHaveLength(1);
});

test('what a worker was given nothing of, while the lease was not its own, was not lost by the stream', async () => {
  await using t = carry();
  t.ledger.leased = false;
  t.worker.live();
  const asked = t.ledger.reports.length;
  await eventually(() => expect(t.ledger.reports.length).toBeGreaterThan(asked + 1));
  t.ledger.add(decided('ada'));
  t.ledger.leased = true;
  await eventually(() => expect(t.ledger.acknowledgements).toMatchObject([{ carriedBy: 'catch_up' }]));
  expect(t.logged).toEqual([]);
});

test('what the stream brings in one moment, partition by partition, goes to the store together', async () => {
  await using t = carry();
  await t.commit(decided('ada'));
  await Promise.all(['bob', 'cyd', 'dan'].map((who) => t.commit(decided(who))));
  expect(t.store.applied.map((batch) => batch.length)).toEqual([1, 3]);
});

test('of one subject only the newest is carried, and its acknowledgement settles all', async () => {
  await using t = carry();
  const versions = [1, 2, 3].map((version) => decided('ada', { version }));
  await t.commit(versions[0]!, versions[2]!, versions[1]!);
  await eventually(() => expect(t.ledger.settled.size).toBe(3));
  expect(t.store.versionsOf('ada')).toEqual([3]);
});

test('a store that settles late is read back until it holds it, and not longer than it may take', async () => {
  await using late = carry({ declared: { settles: { afterMs: 20, withinMs: 60_000 } } });
  let reads = 0;
  late.store.onReadBack = (keys) => Promise.resolve((reads += 1) < 3 ? keys.map(() => undefined) : undefined);
  await late.commit(decided('ada'));
  expect(reads).toBe(3);
  expect(late.ledger.acknowledgements).toMatchObject([{ outcome: 'verified', attempts: 1 }]);

  await using never = carry({ declared: { settles: { afterMs: 20, withinMs: 200 } } });
  never.store.onReadBack = (keys) => Promise.resolve(keys.map(() => undefined));
  const bob = decided('bob');
  await never.commit(bob);
  expect(never.ledger.parked.get(bob.seq)).toMatchObject({ outcome: 'failed', code: 'NOT_HELD' });
});

test('a store that cannot be read is acknowledged as applied, never as verified', async () => {
  await using t = carry({ declared: { evidence: 'applied' } });
  t.store.onReadBack = () => Promise.reject(new Error('nobody should ask'));
  await t.commit(decided('ada'));
  expect(t.ledger.acknowledgements).toMatchObject([{ outcome: 'applied' }]);
});

test('a decision under a transport key that was destroyed is left to the ledger, and holds up nobody', async () => {
  await using t = carry();
  await t.commit(decided('ada', { transportKeyId: 2 }), decided('bob'));
  expect(t.store.suppressedOf('bob')).toHaveLength(3);
  expect(t.ledger.acknowledgements).toHaveLength(1);
});

// Seen: each was reported forty times a second, for ever, since a try that reaches no store was not counted.
test.each([
  ['that was erased is parked at once', 'ADDRESS_ERASED', { sealed: undefined }, 'refused', [1]],
  [
    'that does not open is tried a few times and parked',
    'SEALED_UNREADABLE',
    { sealed: 'AQAAAAE' },
    'failed',
    [1, 2, 3, 4, 5],
  ],
] as const)('an address %s, and holds up nobody', async (_, code, fields, outcome, tries) => {
  await using t = carry();
  const ada = decided('ada', fields);
  await t.commit(ada, decided('bob'));
  expect(t.store.suppressedOf('bob')).toHaveLength(3);
  const ofAda = t.ledger.acknowledgements.filter(({ seq }) => seq === ada.seq);
  expect(ofAda.map((one) => [one.outcome, one.code, one.attempts])).toEqual(
    tries.map((attempts) => [outcome, code, attempts]),
  );
  expect(t.ledger.parked.has(ada.seq)).toBe(true);
});

test('however many have their next try at once, a live decision waits for about a second of them', async () => {
  const ledger = new FakeLedger();
  for (let n = 0; n < 160; n += 1) ledger.add(decided(`parked${n}`), { attempts: 3 });
  await using t = carry({ ledger, declared: { limits: { batch: 10, perSecond: 40, concurrent: 1 } } });
  await eventually(() => expect(t.store.applied.length).toBeGreaterThan(0));
  await t.commit(decided('live'));
  expect(t.store.applied.flat().length).toBeLessThan(100);
  // All of them are tried in the end.
  await eventually(() => expect(ledger.settled.size).toBe(161));
});

test('a try says which asking it answers for, and one that the worker makes of itself answers for none', async () => {
  await using t = carry();
  t.store.onReadBack = (keys) => Promise.resolve(keys.map(() => undefined));
  t.ledger.add(decided('ada'), { attempts: 2, asked: 3 });
  await eventually(() =>
    expect(t.ledger.acknowledgements.map(({ attempts, asked }) => [attempts, asked])).toEqual([
      [3, 3],
      [4, undefined],
      [5, undefined],
    ]),
  );
});

test('a store that is fast is not slowed down: as soon as some were tried again, the next are', async () => {
  jest.useFakeTimers();
  try {
    const ledger = new FakeLedger();
    for (let n = 0; n < 3_000; n += 1) ledger.add(decided(`parked${n}`), { attempts: 3 });
    await using _t = carry({ ledger });
    // One look a second, or even four, would take four seconds or more.
    await jest.advanceTimersByTimeAsync(3_000);
    expect(ledger.settled.size).toBe(3_000);
  } finally {
    jest.useRealTimers();
  }
});

test('a store that takes so many a second is given no more, however many calls it takes at once', async () => {
  await using t = carry({ declared: { limits: { batch: 100, perSecond: 50, concurrent: 4 } } });
  const began = performance.now();
  await t.commit(...Array.from({ length: 120 }, (_, n) => decided(`person-${n}`)));
  expect(performance.now() - began).toBeGreaterThan(1_900);
  expect(t.store.applied.map(({ length }) => length)).toEqual([50, 50, 20]);
});

// ---- stopping, and a ledger that comes and goes -----------------------------------------------------------------------

test('stopping finishes and reports what is under way, and leaves the rest to the ledger', async () => {
  await using t = carry({ declared: { limits: { batch: 1, concurrent: 1 } } });
  const answer: PromiseWithResolvers<undefined> = Promise.withResolvers();
  t.store.onApply = () => answer.promise;
  const [ada, bob] = [decided('ada'), decided('bob')];
  const committed = t.commit(ada, bob);
  await eventually(() => expect(t.store.applied).toHaveLength(1));
  const stopped = t.worker.stop();
  answer.resolve(undefined);
  await stopped;
  await committed;
  expect(t.ledger.acknowledgements).toMatchObject([{ seq: ada.seq, outcome: 'verified' }]);
  expect(t.store).toMatchObject({ opened: 1, closed: 1 });
  expect(t.store.versionsOf('bob')).toEqual([]);
  await t.worker.offer([decided('cyd')]);
  expect(t.store.applied).toHaveLength(1);
});

test('stopping in the middle of failures leaves no timer behind', async () => {
  jest.useFakeTimers();
  try {
    const t = carry();
    t.store.onReadBack = (keys) => Promise.resolve(keys.map(() => undefined));
    void t.commit(decided('ada'));
    await jest.advanceTimersByTimeAsync(100);
    expect(t.ledger.acknowledgements.length).toBeGreaterThan(1);
    t.store.onApply = () => Promise.reject(new TryLater(1_000_000));
    await t.worker.stop();
    expect(jest.getTimerCount()).toBe(0);
  } finally {
    jest.useRealTimers();
  }
});

test('a ledger that takes no report is said once, and again after it took one', async () => {
  await using t = carry();
  let refused = 0;
  const acknowledge = t.ledger.acknowledge.bind(t.ledger);
  let refuses = true;
  t.ledger.acknowledge = (report) => {
    if (!refuses) return acknowledge(report);
    refused += 1;
    return Promise.reject(new Error('422'));
  };
  const said = (): string[] => t.logged.filter((line) => line.startsWith('a report was not accepted'));
  const committed = t.commit(decided('ada'));
  await eventually(() => expect(refused).toBeGreaterThan(2));
  expect(said()).toHaveLength(1);
  refuses = false;
  await committed;
  refuses = true;
  await eventually(() => expect(said()).toHaveLength(2));
});

test('a store that does not say which one it is shows so in the log, once, and is told everything', async () => {
  const store = new FakeStore();
  store.incarnation = () => Promise.reject(new AbideError('STORE_FAILED', 'It gives a number.'));
  const ledger = new FakeLedger();
  await using t = carry({ store, ledger });
  await eventually(() => expect(ledger.reports.filter(({ observed }) => observed).length).toBeGreaterThan(1));
  await t.commit(decided('ada'));
  const line = 'the store does not say which one it is: only its canary shows whether it still is that';
  expect(t.logged).toEqual([line]);
  expect(t.fields).toEqual([{ store: 'crm', code: 'STORE_FAILED', reason: 'It gives a number.' }]);
  expect(ledger.settled.size).toBe(1);
});

test('while the ledger is away nothing is lost: reports wait, and what was decided is carried when it is back', async () => {
  await using t = carry();
  await t.commit(decided('ada'));
  t.ledger.away = new AbideError('ledger-unavailable');
  const committed = t.commit(decided('bob'));
  await eventually(() => expect(t.store.versionsOf('bob')).toEqual([1]));
  await eventually(() => expect(t.logged).toContain('the ledger gives out nothing, will try again'));
  expect(t.ledger.settled.size).toBe(1);
  const cyd = t.ledger.add(decided('cyd'));
  t.ledger.away = undefined;
  await committed;
  await eventually(() => expect(t.ledger.settled.has(cyd.seq)).toBe(true));
  await eventually(() => expect(t.logged).toContain('the ledger answers again'));
  expect(t.logged.filter((line) => line.startsWith('the ledger gives out nothing'))).toHaveLength(1);
});

// Seen: while the API was restarted its worker said that it gives out nothing, and no more when it answered 401 from then on.
test('each other answer that the ledger gives instead of a page is said once', async () => {
  await using t = carry();
  await t.commit(decided('ada'));
  const said = (): unknown[] =>
    t.logged.flatMap((line, n) =>
      line.startsWith('the ledger gives out nothing')
        ? [(t.fields[n] as { error: AbideError }).error.code]
        : [],
    );
  t.ledger.away = new AbideError('ledger-unavailable');
  await eventually(() => expect(said()).toEqual(['ledger-unavailable']));
  t.ledger.away = new AbideError('unauthenticated');
  await eventually(() => expect(said()).toEqual(['ledger-unavailable', 'unauthenticated']));
  t.ledger.away = undefined;
  await eventually(() => expect(t.logged).toContain('the ledger answers again'));
  expect(said()).toHaveLength(2);
});

// After each start of the stack every store showed an error that was none.
test('a ledger that starts later than its worker is no error, one that goes away is the last one', async () => {
  const ledger = new FakeLedger();
  ledger.away = new AbideError('ledger-unavailable');
  await using t = carry({ ledger });
  await eventually(() => expect(t.logged).toContain('the ledger gives out nothing, will try again'));
  ledger.away = undefined;
  await eventually(() => expect(ledger.reports.length).toBeGreaterThan(0));
  expect(ledger.reports.at(-1)!.worker.lastError).toBeUndefined();
  ledger.away = new AbideError('ledger-unavailable');
  await eventually(() =>
    expect(t.logged.filter((line) => line.startsWith('the ledger gives out nothing'))).toHaveLength(2),
  );
  ledger.away = undefined;
  await eventually(() =>
    expect(ledger.reports.at(-1)!.worker.lastError).toMatchObject({ code: 'LEDGER_UNAVAILABLE' }),
  );
});

test('a worker that stops while the ledger is away claims nothing, and says so', async () => {
  await using t = carry();
  await eventually(() => expect(t.ledger.reports.length).toBeGreaterThan(0));
  const answer: PromiseWithResolvers<undefined> = Promise.withResolvers();
  t.store.onApply = () => answer.promise;
  void t.commit(decided('ada'));
  await eventually(() => expect(t.store.versionsOf('ada')).toEqual([1]));
  t.ledger.away = new AbideError('ledger-unavailable');
  answer.resolve(undefined);
  await t.worker.stop();
  expect(t.ledger.settled.size).toBe(0);
  expect(t.logged).toContain('stopped without reporting: the ledger will ask again');
});

test('what was read back of a generation that is over settles nothing and is carried again', async () => {
  await using t = carry();
  const answer: PromiseWithResolvers<undefined> = Promise.withResolvers();
  t.store.onApply = () => (t.store.applied.length === 1 ? answer.promise : Promise.resolve(undefined));
  const ada = decided('ada');
  void t.commit(ada);
  await eventually(() => expect(t.store.applied).toHaveLength(1));
  t.ledger.generation = 2;
  answer.resolve(undefined);
  await eventually(() => expect(t.ledger.settled.has(ada.seq)).toBe(true));
  const generations = t.ledger.reports.filter(({ acknowledgements }) => acknowledgements.length > 0);
  expect(generations.map(({ generation }) => generation)).toEqual([1, 2]);
});

/** A canary that the store holds and the worker has looked at, and its next version. */
async function withCanary(t: Carrying): Promise<readonly [Decision, Decision]> {
  const canary = decided('canary');
  await t.commit(canary);
  t.ledger.canary = () => Promise.resolve(canary);
  await eventually(() => expect(t.ledger.reports.map(({ observed }) => observed?.canary)).toContain('held'));
  return [canary, decided('canary', { subjectId: canary.subjectId, version: 2 })];
}

test('a ledger that cannot say which canary it was is no failure of the store', async () => {
  await using t = carry();
  const [, next] = await withCanary(t);
  t.ledger.canary = () => Promise.reject(new AbideError('ledger-unavailable'));
  await t.commit(next);
  expect(t.ledger.settled.get(next.seq)).toMatchObject({ outcome: 'verified', attempts: 1 });
  expect(t.logged).toEqual([]);
});

test('a canary that is lost while a sign of life is under way is told with the next one', async () => {
  const ledger = new FakeLedger();
  await using t = carry({ ledger });
  const [, next] = await withCanary(t);
  const { promise: answer, resolve } = Promise.withResolvers<undefined>();
  const acknowledge = ledger.acknowledge.bind(ledger);
  let held = false;
  ledger.acknowledge = async (report) => {
    if (report.observed !== undefined && !held) {
      held = true;
      await answer;
    }
    return await acknowledge(report);
  };
  await eventually(() => expect(held).toBe(true));
  t.store.held.clear();
  void t.commit(next);
  await eventually(() => expect(t.store.versionsOf('canary')).toEqual([1, 2]));
  resolve(undefined);
  await eventually(() => expect(ledger.reports.map(({ observed }) => observed?.canary)).toContain('lost'));
});

// Found by reading: Abide was down while the store was emptied, and the canary that was due at the start covered that up.
test('a worker that starts looks whether the canary is there before it writes the next one', async () => {
  const ledger = new FakeLedger();
  const canary = decided('canary');
  ledger.canary = () => Promise.resolve(canary);
  ledger.add(decided('canary', { version: 2 }));
  await using t = carry({ ledger });
  await eventually(() => expect(t.store.versionsOf('canary')).toEqual([2]));
  const seen = (): unknown[] => ledger.reports.flatMap(({ observed }) => observed?.canary ?? []);
  // Told is not yet taken, and the canary is there again: it goes on saying so until the ledger begins another generation.
  await eventually(() => expect(seen().length).toBeGreaterThan(2));
  expect(new Set(seen())).toEqual(new Set(['lost']));
  ledger.generation = 2;
  await eventually(() => expect(seen().at(-1)).toBe('held'));
});

// ---- stream and ledger ------------------------------------------------------------------------------------------------

describe('with a clock of its own', () => {
  beforeEach(() => {
    jest.useFakeTimers();
  });
  afterEach(() => {
    jest.useRealTimers();
  });

  /** Live, with everything before it read from the ledger. */
  async function live(t: Carrying): Promise<void> {
    t.worker.live();
    const { length } = t.ledger.pages;
    await jest.advanceTimersByTimeAsync(100);
    expect(t.ledger.pages.length).toBeGreaterThan(length);
  }

  // Found by reading: whoever could write a record to the topic had her own row read back, and another person's opt-out was verified.
  test('what a stream brings under the number of another decision settles nothing of it, and what the ledger has there is carried', async () => {
    await using t = carry({ source: { hasOtherWriters: true } });
    await live(t);
    const ada = decided('ada');
    const bob = decided('bob');
    const forged = ({ seq }: Decision): Decision => decided('eve', { seq });
    void t.worker.offer([forged(ada)]);
    await jest.advanceTimersByTimeAsync(0);
    expect(t.store.versionsOf('eve')).not.toEqual([]);
    const committed = t.commit(ada, bob);
    await jest.advanceTimersByTimeAsync(0);
    await committed;
    void t.worker.offer([forged(bob)]);
    await jest.advanceTimersByTimeAsync(2_000);
    expect(t.ledger.settled.size).toBe(2);
    for (const [{ subjectId, seq }, carriedBy] of [
      [ada, 'catch_up'],
      [bob, 'stream'],
    ] as const) {
      expect(t.store.versionsOf(subjectId)).toEqual([1]);
      expect(t.ledger.settled.get(seq)).toMatchObject({ subjectId, carriedBy });
    }
  });

  test('what the stream loses while it is live is driven again after five seconds, counted and said', async () => {
    await using t = carry();
    await live(t);
    for (const who of ['ada', 'bob', 'cyd']) t.ledger.add(decided(who));
    await jest.advanceTimersByTimeAsync(4_000);
    expect(t.ledger.acknowledgements).toEqual([]);
    await jest.advanceTimersByTimeAsync(3_000);
    const redriven = { outcome: 'verified', carriedBy: 'redrive' };
    expect(t.ledger.acknowledgements).toMatchObject([redriven, redriven, redriven]);
    expect(t.logged).toEqual(['the stream lost decisions: the ledger drives them again']);
    expect(t.fields).toMatchObject([{ decisions: 3 }]);
  });

  test('what another worker has in hand while the store is away is not lost; what was is driven once the store is back', async () => {
    await using t = carry();
    await live(t);
    t.store.onApply = () => Promise.reject(new Error('away'));
    void t.commit(decided('ada'));
    const [bob, cyd] = [t.ledger.add(decided('bob')), t.ledger.add(decided('cyd'))];
    await jest.advanceTimersByTimeAsync(20_000);
    t.store.onApply = () => Promise.resolve(undefined);
    // The other worker asks the store again within five seconds, and so does this one.
    await jest.advanceTimersByTimeAsync(4_000);
    t.ledger.settled.set(bob.seq, {
      seq: bob.seq,
      version: bob.version,
      outcome: 'verified',
      held: { version: bob.version, suppressed: [] },
      carriedBy: 'stream',
      attempts: 2,
      asked: undefined,
      code: undefined,
      evidence: {},
    });
    await jest.advanceTimersByTimeAsync(8_000);
    expect(t.ledger.acknowledgements).toMatchObject([
      { carriedBy: 'stream', outcome: 'verified' },
      { seq: cyd.seq, outcome: 'verified', carriedBy: 'redrive' },
    ]);
  });

  test('what the stream delivers, even late, is not counted as driven again', async () => {
    await using t = carry();
    await live(t);
    const ada = t.ledger.add(decided('ada'));
    await jest.advanceTimersByTimeAsync(3_000);
    void t.worker.offer([ada]);
    await jest.advanceTimersByTimeAsync(5_000);
    expect(t.ledger.acknowledgements).toMatchObject([{ carriedBy: 'stream' }]);
  });

  test('without a stream the ledger is asked every quarter of a second, and that is no alarm', async () => {
    await using t = carry();
    await live(t);
    t.worker.down();
    t.ledger.add(decided('ada'));
    await jest.advanceTimersByTimeAsync(300);
    expect(t.ledger.acknowledgements).toMatchObject([{ carriedBy: 'catch_up' }]);
    const { length } = t.ledger.pages;
    await jest.advanceTimersByTimeAsync(1_000);
    expect(t.ledger.pages.length - length).toBeGreaterThanOrEqual(3);
  });

  test('what was committed before the stream stood is caught up with as soon as it does', async () => {
    await using t = carry();
    t.ledger.add(decided('ada'));
    t.worker.live();
    await jest.advanceTimersByTimeAsync(50);
    expect(t.ledger.acknowledgements).toMatchObject([{ carriedBy: 'catch_up' }]);
  });

  test('an older decision whose newer one is refused is tried by itself, and the stream is not blamed', async () => {
    await using t = carry();
    t.store.onApply = (batch) =>
      Promise.resolve(
        batch.map((item) => (item.version === 2 ? { kind: 'refused', code: 'NO' } : t.store.write(item))),
      );
    await live(t);
    const older = decided('ada');
    void t.commit(older, decided('ada', { version: 2 }));
    await jest.advanceTimersByTimeAsync(8_000);
    expect(
      t.ledger.acknowledgements.map(({ version, outcome, carriedBy }) => [version, outcome, carriedBy]),
    ).toEqual([
      [2, 'refused', 'stream'],
      [1, 'verified', 'retry'],
    ]);
    expect(t.logged).toEqual([]);
  });

  test('what a relay has taken over is handed to it again now and then, and the stream is not blamed', async () => {
    await using t = carry({ declared: { evidence: 'relay' } });
    await live(t);
    void t.commit(decided('ada'));
    await jest.advanceTimersByTimeAsync(8_000);
    expect(t.store.versionsOf('ada')).toEqual([1, 1]);
    expect(t.ledger.acknowledgements).toEqual([]);
    expect(t.logged).toEqual([]);
  });

  test('a worker with nothing to do shows that it lives, every second', async () => {
    await using t = carry();
    await jest.advanceTimersByTimeAsync(5_000);
    expect(t.ledger.reports.length).toBeGreaterThanOrEqual(5);
    expect(t.ledger.reports[0]?.worker).toMatchObject({ id: 'worker-1', source: { kind: 'pgoutput' } });
  });
});

test('a store that falls behind leaves the stream, with no more than 10,000 in hand, and catches up from the ledger', async () => {
  await using t = carry({ declared: { limits: { batch: 500, concurrent: 2 } } });
  const answer: PromiseWithResolvers<undefined> = Promise.withResolvers();
  t.store.onApply = () => answer.promise;
  t.worker.live();
  await eventually(() => expect(t.ledger.pages.length).toBeGreaterThan(1));
  const people = Array.from({ length: 14_000 }, (_, n) => decided(`person-${n}`));
  for (const one of people) t.ledger.add(one);
  let answered = 0;
  for (let from = 0; from < people.length; from += 1_000) {
    void t.worker.offer(people.slice(from, from + 1_000)).then(() => (answered += 1));
  }
  // Four of the fourteen were too much, and are left to the ledger.
  await eventually(() => expect(answered).toBe(4));
  expect(t.logged).toEqual(['store is behind: catching up from the ledger']);
  answer.resolve(undefined);
  await eventually(() => expect(t.ledger.settled.size).toBe(14_000));
  const by = Map.groupBy(t.ledger.acknowledgements, ({ carriedBy }) => carriedBy);
  expect([...by].map(([carriedBy, { length }]) => [carriedBy, length])).toEqual([
    ['stream', 10_000],
    ['catch_up', 4_000],
  ]);
});

// ---- lifting in a store without versions --------------------------------------------------------------------------------

describe('a store without versions', () => {
  const none = { versions: 'none' } as const;
  /** Whether the batch lifts something. */
  const lifts = ([item]: readonly Item[]): boolean => Object.keys(item!.granted).length > 0;
  const grant = (version: number) =>
    decided('ada', { version, suppressed: ['sms'], granted: { email: version } });
  /** It knows no versions, and does whatever it is told. */
  class Forgetful extends FakeStore {
    override write(item: Item): ApplyOutcome {
      const suppressed = new Set([
        ...(this.held.get(item.key)?.suppressed ?? []),
        ...Object.keys(item.suppressed),
      ]);
      for (const scope of Object.keys(item.granted)) suppressed.delete(scope);
      this.held.set(item.key, { version: undefined, suppressed });
      return { kind: 'applied' };
    }
  }
  const carryForgetful = () => carry({ store: new Forgetful(), declared: none });

  test('a grant lifts what it names, and is verified once that is lifted', async () => {
    await using t = carryForgetful();
    await t.commit(decided('ada'));
    await t.commit(grant(2));
    expect(t.store.suppressedOf('ada')).toEqual(['push', 'sms']);
    expect(t.ledger.acknowledgements).toMatchObject([{ version: 1 }, { version: 2, outcome: 'verified' }]);
  });

  test('what it was told to lift is not lifted again by a later decision: it may suppress that by itself since', async () => {
    await using t = carryForgetful();
    await t.commit(decided('ada', { suppressed: ['email'] }));
    await t.commit(decided('ada', { version: 2, suppressed: [], granted: { email: 2 } }));
    const key = 'ada@example.com';
    t.store.held.set(key, { version: undefined, suppressed: new Set(['email']) });
    await t.commit(decided('ada', { version: 3, suppressed: ['sms'], granted: { email: 2 } }));
    expect(t.store.suppressedOf('ada')).toEqual(['email', 'sms']);
    // Nor does it when the same decision is driven again.
    const again = decided('ada', { version: 4, suppressed: ['sms'], granted: { email: 2, push: 4 } });
    await t.commit(again);
    t.store.held.set(key, { version: undefined, suppressed: new Set(['email', 'push']) });
    await t.worker.offer([again]);
    expect(t.store.suppressedOf('ada')).toEqual(['email', 'push', 'sms']);
    expect(t.ledger.acknowledgements.map(({ outcome }) => outcome)).toEqual(Array(5).fill('verified'));
  });

  test('what it suppressed before it was added stays, whatever somebody had granted by then', async () => {
    await using t = carryForgetful();
    t.ledger.targetSince = ADDED_AT;
    t.store.held.set('ada@example.com', { version: undefined, suppressed: new Set(['email']) });
    await t.commit({ ...decided('ada', { version: 2, suppressed: [] }), granted: GRANTED_LONG_AGO });
    await t.commit({ ...decided('ada', { version: 3, suppressed: ['sms'] }), granted: GRANTED_LONG_AGO });
    expect(t.store.suppressedOf('ada')).toEqual(['email', 'sms']);
    await t.commit({ ...decided('ada', { version: 4, suppressed: ['sms'] }), granted: GRANTED_NOW });
    expect(t.store.suppressedOf('ada')).toEqual(['sms']);
    expect(t.ledger.acknowledgements.map(({ outcome }) => outcome)).toEqual(Array(3).fill('verified'));
  });

  test('filled anew it lifts what it was told to suppress before, be the consent dated before it was added, and nothing else', async () => {
    await using t = carryForgetful();
    t.ledger.targetSince = ADDED_AT;
    for (const [who, first] of [
      ['ada', 1],
      ['bob', 2],
    ] as const) {
      t.ledger.acknowledgedBefore.set(who, first);
      t.store.held.set(`${who}@example.com`, { version: undefined, suppressed: new Set(['email']) });
      await t.commit({ ...decided(who, { version: 2, suppressed: [] }), granted: GRANTED_LONG_AGO });
    }
    expect(t.store.suppressedOf('ada')).toEqual([]);
    expect(t.store.suppressedOf('bob')).toEqual(['email']);
  });

  test('what it was not told to lift, since that was overtaken, is lifted by the next decision', async () => {
    await using t = carryForgetful();
    await t.commit(decided('ada', { suppressed: ['email'] }));
    t.ledger.add(decided('ada', { version: 2, suppressed: [], granted: { email: 2 } }));
    await t.commit(decided('ada', { version: 3, suppressed: ['sms'], granted: { email: 2 } }));
    expect(t.store.suppressedOf('ada')).toEqual(['sms']);
  });

  test('a grant that a newer opt-out has overtaken is not applied at all', async () => {
    await using t = carryForgetful();
    await t.commit(decided('ada'));
    const overtaken = t.ledger.add(grant(2));
    const newer = t.ledger.add(decided('ada', { version: 3 }));
    await t.worker.offer([overtaken]);
    await t.worker.offer([newer]);
    expect(t.store.applied.filter(lifts)).toEqual([]);
    expect(t.ledger.settled.size).toBe(3);
    expect(t.store.suppressedOf('ada')).toEqual(['email', 'push', 'sms']);
  });

  test('a grant that is overtaken while it is applied is taken back, and read', async () => {
    await using t = carryForgetful();
    await t.commit(decided('ada'));
    let newer: Decision | undefined;
    let forgets = 1;
    t.store.onApply = (batch) => {
      if (lifts(batch)) newer ??= t.ledger.add(decided('ada', { version: 3 }));
      // The first of the two that follow the lifting is lost.
      else if (newer !== undefined && (forgets -= 1) === 0) return Promise.resolve([{ kind: 'applied' }]);
      return Promise.resolve(undefined);
    };
    await t.commit(grant(2));
    await eventually(() => expect(t.ledger.settled.has(newer!.seq)).toBe(true));
    expect(t.store.suppressedOf('ada')).toEqual(['email', 'push', 'sms']);
  });

  test('nothing else of a subject goes to the store while a grant of theirs is under way', async () => {
    await using t = carryForgetful();
    await t.commit(decided('ada'));
    const answer: PromiseWithResolvers<undefined> = Promise.withResolvers();
    t.store.onApply = (batch) => (lifts(batch) ? answer.promise : Promise.resolve(undefined));
    const granted = t.commit(grant(2));
    await eventually(() => expect(t.store.versionsOf('ada')).toEqual([1, 2]));
    const newer = decided('ada', { version: 3 });
    const committed = t.commit(newer);
    await t.commit(decided('bob'));
    expect(t.store.versionsOf('ada')).toEqual([1, 2]);
    answer.resolve(undefined);
    await Promise.all([granted, committed]);
    await eventually(() => expect(t.ledger.settled.has(newer.seq)).toBe(true));
    expect(t.store.suppressedOf('ada')).toEqual(['email', 'push', 'sms']);
  });

  test('a lifting whose answer was lost and that is overtaken then is taken back', async () => {
    await using t = carryForgetful();
    await t.commit(decided('ada'));
    let newer: Decision | undefined;
    t.store.onApply = (batch) => {
      if (!lifts(batch)) return Promise.resolve(undefined);
      for (const item of batch) t.store.write(item);
      newer ??= decided('ada', { version: 3, suppressed: ['email', 'push', 'sms'] });
      return Promise.reject(new Error('answer lost'));
    };
    const granted = grant(2);
    void t.commit(granted);
    await eventually(() => expect(newer).toBeDefined());
    // Another worker settled it in the meantime, before the lifting arrived.
    t.ledger.add(newer!);
    t.ledger.settled.set(newer!.seq, t.ledger.acknowledgements[0]!);
    await eventually(() => expect(t.store.suppressedOf('ada')).toEqual(['email', 'push', 'sms']));
  });

  // Nothing was outstanding, and the store went on without the opt-out.
  test.each([
    ['that cannot be read refuses', { evidence: 'applied' }, { kind: 'refused', code: 'FULL' }],
    ['that cannot be read finds nobody', { evidence: 'applied' }, { kind: 'absent' }],
    ['behind a queue refuses', { evidence: 'relay' }, { kind: 'refused', code: 'FULL' }],
    ['says yes and does not do', {}, { kind: 'applied' }],
    ['fails', {}, undefined],
  ] as const)(
    'an opt-out that a store acknowledged, and that a lifting then undid, is carried again though the store %s',
    async (_what, declared, says) => {
      await using t = carry({ store: new Forgetful(), declared: { ...none, ...declared } });
      t.ledger.add(decided('ada'));
      t.store.held.set('ada@example.com', {
        version: undefined,
        suppressed: new Set(['email', 'push', 'sms']),
      });
      let newer: Decision | undefined;
      let isMended = false;
      t.store.onApply = (batch) => {
        if (!lifts(batch)) {
          if (newer === undefined || isMended) return Promise.resolve(undefined);
          return says === undefined ? Promise.reject(new Error('away')) : Promise.resolve([says]);
        }
        for (const item of batch) t.store.write(item);
        // Another worker settled it in the meantime, before the lifting arrived.
        newer = t.ledger.add(decided('ada', { version: 3 }));
        const elsewhere = toReport(toCarried(newer, 'live', 'stream'), { outcome: 'applied' });
        t.ledger.settled.set(newer.seq, elsewhere.acknowledgement);
        return Promise.resolve([{ kind: 'applied' }]);
      };
      await t.commit(grant(2));
      expect(t.ledger.acknowledgements).toContainEqual(
        expect.objectContaining({ seq: newer!.seq, version: 3, outcome: 'failed', code: 'LIFT_NOT_UNDONE' }),
      );
      expect(t.logged).toContain(
        'the store may not hold what a newer decision suppresses: it is carried again',
      );
      isMended = true;
      await eventually(() => expect(t.store.suppressedOf('ada')).toEqual(['email', 'push', 'sms']));
    },
  );

  test('an older opt-out that waited all the while does not undo the consent', async () => {
    await using t = carryForgetful();
    const older = decided('ada');
    let fails = true;
    t.store.onReadBack = (keys) => Promise.resolve(fails ? keys.map(() => undefined) : undefined);
    const committed = t.commit(older);
    await eventually(() => expect(t.ledger.acknowledgements).toMatchObject([{ outcome: 'failed' }]));
    fails = false;
    await t.commit(grant(2));
    await committed;
    expect(t.store.suppressedOf('ada')).toEqual(['push', 'sms']);
    expect(t.ledger.settled.has(older.seq)).toBe(true);
  });

  test('while the ledger cannot say whether a grant is the newest, nothing is lifted', async () => {
    await using t = carryForgetful();
    await t.commit(decided('ada'));
    t.ledger.away = new AbideError('ledger-unavailable');
    const committed = t.commit(grant(2));
    await eventually(() => expect(t.logged).toContain('store failed, will try again'));
    expect(t.store.suppressedOf('ada')).toContain('email');
    t.ledger.away = undefined;
    await committed;
    expect(t.store.suppressedOf('ada')).toEqual(['push', 'sms']);
  });
});

test('what was under way when a generation began is carried for it at once, the stream being live', async () => {
  await using t = carry();
  t.worker.live();
  await t.commit(decided('ada'));
  t.store.onApply = () => {
    t.ledger.generation = 2;
    return Promise.resolve(undefined);
  };
  await t.commit(decided('bob'));
  await eventually(() => expect(t.ledger.settled.size).toBe(2));
  expect(t.ledger.acknowledgements.map(({ carriedBy }) => carriedBy)).toEqual([
    'stream',
    'stream',
    'catch_up',
  ]);
});

// Kafka goes on delivering to the worker of a paused store.
test('a paused store is told nothing, whatever the stream brings, and all of it once it is resumed', async () => {
  await using t = carry();
  t.ledger.paused = true;
  const pages = t.ledger.pages.length;
  await eventually(() => expect(t.logged).toContain('store is paused or retired: nothing is carried to it'));
  const people = ['ada', 'bob', 'cyd'].map((who) => decided(who));
  await t.commit(...people);
  expect(t.ledger.pages.length).toBe(pages);
  expect(t.store.suppressedOf('ada')).toEqual([]);

  t.ledger.paused = false;
  await eventually(() => expect(t.ledger.settled.size).toBe(people.length));
  expect(t.ledger.acknowledgements.map(({ carriedBy }) => carriedBy)).toEqual([
    'catch_up',
    'catch_up',
    'catch_up',
  ]);
});

test('whoever offers to a paused store and waits for the answer has it when the ledger is read again, or the worker stops', async () => {
  await using t = carry();
  t.ledger.paused = true;
  await eventually(() => expect(t.logged).toContain('store is paused or retired: nothing is carried to it'));
  const held: PromiseWithResolvers<void> = Promise.withResolvers();
  const { outstanding } = t.ledger;
  let asked = 0;
  t.ledger.outstanding = async (ask) => {
    asked += 1;
    await held.promise;
    return outstanding.call(t.ledger, ask);
  };
  await eventually(() => expect(asked).toBe(1));
  let answered = false;
  const offered = t.worker.offer([decided('ada')]).then(() => (answered = true));
  await new Promise(setImmediate);
  expect(answered).toBe(false);
  held.resolve();
  await offered;
  expect(asked).toBeGreaterThan(1);
  const last = t.worker.offer([decided('bob')]);
  await t.worker.stop();
  await last;
});

test('what the stream brings while the ledger says that the store is resumed is not lost', async () => {
  await using t = carry();
  t.worker.live();
  t.ledger.paused = true;
  await eventually(() => expect(t.logged.join()).toContain('paused'));
  const { outstanding } = t.ledger;
  let late: Decision | undefined;
  t.ledger.outstanding = async (ask) => {
    const page = await outstanding.call(t.ledger, ask);
    if (page.paused !== true && late === undefined) {
      late = t.ledger.add(decided('ada'));
      void t.worker.offer([late]);
    }
    return page;
  };
  t.ledger.paused = false;
  await eventually(() => expect(t.ledger.acknowledgements).toMatchObject([{ carriedBy: 'catch_up' }]));
});

test('what was to be tried again when the store was paused is not: the ledger gives it out afterwards', async () => {
  await using t = carry();
  t.store.onReadBack = async (keys) => {
    t.ledger.paused = true;
    await eventually(() => expect(t.logged.join()).toContain('paused'));
    return keys.map(() => undefined);
  };
  await t.commit(decided('ada'));
  expect(t.ledger.acknowledgements.map(({ code }) => code)).toEqual(['NOT_HELD']);
  expect(t.store.applied).toHaveLength(1);
});

// A free lease is taken by an empty report: a worker that always had something to report never took over.
test('a worker that is busy all the time gives its sign of life all the same, once a second', async () => {
  await using t = carry();
  const empty = (): number =>
    t.ledger.reports.filter(({ acknowledgements }) => acknowledgements.length === 0).length;
  await eventually(() => expect(empty()).toBe(1));
  await eventually(async () => {
    await t.commit(decided('ada'));
    expect(empty()).toBeGreaterThan(1);
  });
  expect(t.ledger.acknowledgements.length).toBeGreaterThan(1);
});
