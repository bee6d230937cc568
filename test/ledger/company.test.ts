import { expect, test } from '@jest/globals';
import { createCompany } from '../../ledger/company.ts';

/** A recorder whose clock stands still unless the test moves it. */
function recorder() {
  let now = 1_000;
  const company = createCompany(() => now);
  return {
    ...company,
    later: (ms: number): void => {
      now += ms;
    },
    /** A transaction in which somebody comes, so that one waits when it ends, 4 ms after it began. */
    overlap: (waiting = 1): void => {
      company.began(waiting);
      now += 4;
      company.came(true);
    },
  };
}

test('nobody waits who comes after the transaction before has ended, however soon', () => {
  const { came, began, patienceMs, later } = recorder();
  for (let n = 0; n < 10; n += 1) {
    came(false);
    expect(patienceMs(1)).toBe(0);
    began(1);
    later(2);
  }
});

test('whoever came while a transaction was under way waits for others, until they are four', () => {
  const { came, patienceMs, overlap } = recorder();
  overlap();
  expect(patienceMs(1)).toBe(3);
  came(false);
  expect(patienceMs(3)).toBe(3);
  came(false);
  expect(patienceMs(4)).toBe(0);
});

test('they wait only as long as others go on coming, and not beyond 10 ms after the last transaction began', () => {
  const { came, patienceMs, later, overlap } = recorder();
  overlap();
  later(2);
  expect(patienceMs(1)).toBe(1);
  later(1);
  expect(patienceMs(1)).toBe(0);
  came(false);
  expect(patienceMs(2)).toBe(3);
  later(2);
  came(false);
  expect(patienceMs(3)).toBe(1);
});

test('waits in vain become rare; one that brings somebody makes them usual again', () => {
  const { came, patienceMs, later, overlap } = recorder();
  /** How many transactions begin at once, all of them overlapping, until somebody waits again. */
  const atOnce = (): number => {
    for (let n = 0; ; n += 1) {
      if (patienceMs(1) > 0) return n;
      overlap();
    }
  };
  overlap();
  const counts: number[] = [];
  for (let n = 0; n < 9; n += 1) {
    counts.push(atOnce());
    later(3);
    overlap();
  }
  expect(counts).toEqual([0, 1, 2, 4, 8, 16, 32, 64, 64]);

  atOnce();
  came(false);
  overlap(2);
  expect(atOnce()).toBe(0);
});
