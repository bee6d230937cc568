import { expect, test } from '@jest/globals';
import { rememberLast } from '../../suppression/remember-last.ts';

test('the last ones are there, those long before are not, and one that is set again is a last one', () => {
  const last = rememberLast<number, string>(3);
  for (let n = 0; n < 20; n += 1) {
    last.set(0, 'again');
    last.set(n + 1, `of ${n + 1}`);
    for (const near of [n + 1, n].filter((one) => one > 0)) expect(last.get(near)).toBe(`of ${near}`);
    expect(
      Array.from({ length: 25 }, (_, one) => last.has(one)).filter((has) => has).length,
    ).toBeLessThanOrEqual(6);
  }
  expect(last.get(0)).toBe('again');
  expect(last.has(5)).toBe(false);
});
