import { describe, expect, test } from '@jest/globals';
import { createPace, drawAmount, sayBytes } from '../../cli/progress.ts';
import type { Amount } from '../../cli/progress.ts';

const amount = (fields: Partial<Amount> = {}): Amount => ({
  what: 'recording',
  done: 50,
  total: 200,
  say: String,
  unit: ' rows',
  aSecond: 10,
  ...fields,
});

describe('a line', () => {
  test('has a bar as long as the terminal has room for', () => {
    const text = ' 25%  50 of 200 rows  10 rows/s  15 s left';
    expect(drawAmount(amount(), 120)).toBe(`recording  ${'█'.repeat(7)}${'░'.repeat(23)}  ${text}`);
    expect(drawAmount(amount(), 72)).toBe(`recording  ${'█'.repeat(4)}${'░'.repeat(12)}  ${text}`);
    expect(drawAmount(amount(), 60)).toBe(`recording  ${text.trim()}`);
    for (let width = 10; width < 130; width += 1)
      expect(drawAmount(amount(), width).length).toBeLessThan(width);
  });

  test('has none where there is no terminal', () => {
    expect(drawAmount(amount({ more: '2 invalid' }), undefined)).toBe(
      'recording: 25%  50 of 200 rows  10 rows/s  15 s left  2 invalid',
    );
  });

  test('says nothing of what is not known', () => {
    expect(drawAmount(amount({ aSecond: undefined }), undefined)).toBe('recording: 25%  50 of 200 rows');
    expect(drawAmount(amount({ aSecond: 0 }), undefined)).toBe('recording: 25%  50 of 200 rows  0 rows/s');
    expect(drawAmount(amount({ total: undefined }), undefined)).toBe('recording: 50 rows  10 rows/s');
    expect(drawAmount(amount({ total: undefined }), 120)).toBe('recording  50 rows  10 rows/s');
    expect(drawAmount(amount({ done: 0, total: 0 }), undefined)).toBe('recording: 100%  0 of 0 rows');
    expect(drawAmount(amount({ done: 200 }), undefined)).toBe('recording: 100%  200 of 200 rows');
  });
});

test('the pace is that of the last half minute, and begins anew with another try', () => {
  const pace = createPace();
  expect(pace(0, 0)).toBeUndefined();
  expect(pace(1_000, 10_000)).toBe(100);
  expect(pace(2_000, 20_000)).toBe(100);
  for (let at = 30_000; at <= 60_000; at += 10_000) pace(2_000, at);
  expect(pace(2_000, 70_000)).toBe(0);
  expect(pace(500, 80_000)).toBeUndefined();
  expect(pace(600, 81_000)).toBe(100);
});

test.each([
  [0, '0 B'],
  [999, '999 B'],
  [1_000, '1.0 kB'],
  [7_688_859, '7.7 MB'],
  [1024 ** 3, '1.1 GB'],
  [5e12, '5000.0 GB'],
])('%d bytes are %s', (bytes, said) => {
  expect(sayBytes(bytes)).toBe(said);
});
