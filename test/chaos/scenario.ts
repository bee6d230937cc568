// What happens in one run, made from its seed alone: who opts out when, and what breaks when. Pure: the same seed is the same
// scenario, on any machine. In what state each moment finds the machine is its own; see docs/chaos.md.
import { STORES } from '../pipeline/system.ts';
import type { StoreName } from '../pipeline/system.ts';

export const CHANNELS = ['email', 'sms', 'push'] as const;

export type OptOut = {
  /** Whose opt-out: an index of the run's people. */
  readonly who: number;
  readonly scopes: readonly string[];
  /** Whether the request carries an idempotency key. */
  readonly keyed: boolean;
  /** How many clients send this very request at once. */
  readonly clients: number;
};

/** One thing that somebody says; the next is said once this one was answered. */
export type Word = { readonly says: 'no' | 'yes'; readonly scopes: readonly string[] };

export type Line = StoreName | 'api';
export const LINES: readonly Line[] = ['api', 'crm', 'sessions', 'mail'];

/** What carries the decisions. */
export type Source = 'pgoutput' | 'kafka';

/** Embedded, there is one process besides the database; over Kafka there are these. */
export const PROGRAMS = [
  'api',
  'broker',
  'connect',
  'registry',
  'worker-crm',
  'worker-sessions',
  'worker-mail',
  'database',
] as const;
export type Killed = 'abide' | 'database' | 'both' | (typeof PROGRAMS)[number];

export type Fault =
  | { readonly kind: 'kill'; readonly what: Killed }
  | {
      readonly kind: 'line';
      readonly line: Line;
      readonly how: 'refuse' | 'hang' | 'cut_request' | 'lose_answer' | 'slow';
      readonly forMs: number;
    }
  /** Everything that the store holds, at once; `truncate` makes it another store, `delete` leaves it looking the same. */
  | { readonly kind: 'wipe'; readonly store: 'crm' | 'sessions'; readonly how: 'truncate' | 'delete' }
  /** One of those whom the store holds then: the one at this share of their list. */
  | {
      readonly kind: 'tamper';
      readonly store: 'crm' | 'sessions';
      readonly how: 'forget' | 'resurrect' | 'older';
      readonly at: number;
    }
  | { readonly kind: 'back_up' }
  /** The store is what it was at the last `back_up`. */
  | { readonly kind: 'restore' }
  | { readonly kind: 'pause'; readonly store: StoreName; readonly forMs: number }
  /** A write transaction, open in another database of the ledger's server. */
  | { readonly kind: 'long_transaction'; readonly forMs: number }
  | { readonly kind: 'drop_slots' }
  /** No byte is left on the disk of the data folder. */
  | { readonly kind: 'disk_full'; readonly forMs: number }
  /** When everything else is over, the ledger becomes what it is now. */
  | { readonly kind: 'back_up_ledger' }
  /** The pepper is replaced while everything goes on; then whoever has the ring is killed, and has the new one. */
  | { readonly kind: 'replace_pepper' }
  /** The clock of a process jumps ahead, and back: of the API (embedded, that is everything), or of a store's worker. */
  | {
      readonly kind: 'clock';
      readonly of: 'serve' | StoreName;
      readonly aheadMs: number;
      readonly forMs: number;
    };

export type Step = { readonly atMs: number } & (
  | { readonly kind: 'load'; readonly optOuts: readonly OptOut[] }
  /** Somebody who opts out, consents again later, and perhaps opts out once more: nobody else speaks for them. */
  | { readonly kind: 'minds_changed'; readonly who: number; readonly words: readonly Word[] }
  | { readonly kind: 'fault'; readonly fault: Fault }
);

export type Scenario = { readonly seed: number; readonly lengthMs: number; readonly steps: readonly Step[] };

/** Numbers in [0, 1) that a seed alone decides (mulberry32). */
function randomOf(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}

const LENGTH_MS = 8_000;

/** Ways to draw from `random`. */
function drawFrom(random: () => number) {
  const upTo = (max: number): number => Math.floor(random() * max);
  const scopes = (): readonly string[] => {
    const chosen = CHANNELS.filter(() => random() < 0.5);
    return chosen.length === 0 ? [CHANNELS[upTo(CHANNELS.length)]!] : chosen;
  };
  return {
    upTo,
    between: (min: number, max: number): number => min + upTo(max - min + 1),
    oneOf: <T>(choices: readonly T[]): T => choices[upTo(choices.length)]!,
    scopes,
  };
}

/** `lengthMs`: from the first step to the last fault. */
export function makeScenario(seed: number, lengthMs = LENGTH_MS, source: Source = 'pgoutput'): Scenario {
  const random = randomOf(seed);
  const { upTo, between, oneOf, scopes } = drawFrom(random);
  // These have a source of their own, so that a seed still means what it meant before they existed.
  const later = drawFrom(randomOf(~seed));
  const latest = drawFrom(randomOf(seed ^ 0x5eed));
  const newest = drawFrom(randomOf(~(seed ^ 0x5eed)));

  const FAULTS: readonly [weight: number, make: () => Fault][] = [
    [3, () => ({ kind: 'kill', what: oneOf(['abide', 'abide', 'database', 'both']) })],
    [
      8,
      () => ({
        kind: 'line',
        line: oneOf(LINES),
        how: oneOf(['refuse', 'hang', 'cut_request', 'lose_answer', 'slow']),
        forMs: between(200, 3_000),
      }),
    ],
    [1, () => ({ kind: 'wipe', store: 'crm', how: oneOf(['truncate', 'delete']) })],
    [1, () => ({ kind: 'wipe', store: 'sessions', how: 'delete' })],
    [
      3,
      () => ({
        kind: 'tamper',
        store: oneOf(['crm', 'sessions']),
        how: oneOf(['forget', 'resurrect', 'older']),
        at: random(),
      }),
    ],
    [2, () => ({ kind: 'restore' })],
    [1, () => ({ kind: 'pause', store: oneOf(['crm', 'sessions', 'mail']), forMs: between(300, 3_000) })],
    [1, () => ({ kind: 'long_transaction', forMs: between(500, 5_000) })],
    [2, () => ({ kind: 'drop_slots' })],
  ];
  const weights = FAULTS.reduce((sum, [weight]) => sum + weight, 0);
  function makeFault(): Fault {
    let at = random() * weights;
    return (FAULTS.find(([weight]) => (at -= weight) < 0) ?? FAULTS[0]!)[1]();
  }

  // People come a few at a time, and earlier ones come again: with another scope, with the same once more, and several clients at
  // once.
  let people = 0;
  const said: OptOut[] = [];
  function makeOptOut(): OptOut {
    const kind = random();
    const again = said.length > 0 && kind < 0.2;
    const one: OptOut = again
      ? { ...oneOf(said), keyed: random() < 0.5, clients: 1 }
      : {
          who: people > 0 && kind < 0.5 ? upTo(people) : people++,
          scopes: scopes(),
          keyed: random() < 0.6,
          clients: random() < 0.2 ? between(2, 3) : 1,
        };
    said.push(one);
    return one;
  }
  const few = (): OptOut[] => Array.from({ length: between(1, 8) }, makeOptOut);
  /** Different scopes of one person, all at once. */
  function race(): OptOut[] {
    const who = people > 0 && random() < 0.5 ? upTo(people) : people++;
    return Array.from({ length: between(3, 8) }, () => ({
      who,
      scopes: scopes(),
      keyed: random() < 0.5,
      clients: between(1, 2),
    }));
  }
  const bulk = (): OptOut[] =>
    Array.from({ length: between(40, 150) }, () => ({
      who: people++,
      scopes: scopes(),
      keyed: true,
      clients: 1,
    }));

  const steps: Step[] = [];
  const load = (atMs: number, optOuts: readonly OptOut[]): void => {
    steps.push({ atMs, kind: 'load', optOuts });
  };
  for (let atMs = 0; atMs < lengthMs; atMs += between(30, 250)) {
    const kind = random();
    load(atMs, kind < 0.05 ? bulk() : kind < 0.2 ? race() : few());
  }
  load(between(0, lengthMs), bulk());
  steps.push({ atMs: between(300, lengthMs / 2), kind: 'fault', fault: { kind: 'back_up' } });
  const faults = between(4, 9);
  for (let n = 0; n < faults; n += 1)
    steps.push({ atMs: between(200, lengthMs), kind: 'fault', fault: makeFault() });
  for (let who = later.between(4, 8); who >= 0; who -= 1) {
    const words: Word[] = [{ says: 'no', scopes: later.scopes() }];
    for (let more = later.between(1, 4); more > 0; more -= 1)
      words.push({ says: words.length % 2 === 1 ? 'yes' : 'no', scopes: later.scopes() });
    steps.push({ atMs: later.between(0, lengthMs), kind: 'minds_changed', who, words });
  }
  for (let more = later.between(0, 2); more > 0; more -= 1) {
    const aheadMs = later.oneOf([-3_600_000, -90_000, 90_000, 3_600_000]);
    const fault: Fault = { kind: 'clock', of: 'serve', aheadMs, forMs: later.between(500, 4_000) };
    steps.push({ atMs: later.between(200, lengthMs), kind: 'fault', fault });
  }
  if (source === 'pgoutput' && latest.upTo(3) === 0) {
    const fault: Fault = { kind: 'disk_full', forMs: latest.between(500, 4_000) };
    steps.push({ atMs: latest.between(200, lengthMs), kind: 'fault', fault });
  }
  if (source === 'pgoutput' && latest.upTo(3) === 0)
    steps.push({ atMs: latest.between(300, lengthMs), kind: 'fault', fault: { kind: 'back_up_ledger' } });
  if (newest.upTo(3) === 0)
    steps.push({
      atMs: newest.between(200, lengthMs),
      kind: 'fault',
      fault: { kind: 'replace_pepper' },
    });
  if (source === 'kafka') {
    for (const [n, step] of steps.entries()) {
      if (step.kind !== 'fault') continue;
      if (step.fault.kind === 'kill')
        steps[n] = { ...step, fault: { kind: 'kill', what: later.oneOf(PROGRAMS) } };
      if (step.fault.kind === 'clock')
        steps[n] = { ...step, fault: { ...step.fault, of: later.oneOf(['serve', ...STORES]) } };
    }
  }
  return { seed, lengthMs, steps: steps.sort((a, b) => a.atMs - b.atMs) };
}
