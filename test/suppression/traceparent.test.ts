import { expect, test } from '@jest/globals';
import { formatTraceparent, parseTraceparent } from '../../suppression/traceparent.ts';

const TEXT = '00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01';

test('a trace context is read and written as the standard has it', () => {
  const read = parseTraceparent(TEXT);
  expect(read).toEqual({
    traceId: '0af7651916cd43dd8448eb211c80319c',
    spanId: 'b7ad6b7169203331',
    traceFlags: 1,
  });
  expect(formatTraceparent(read!)).toBe(TEXT);
});

test.each([
  undefined,
  '',
  TEXT.toUpperCase(),
  `ff${TEXT.slice(2)}`,
  `${TEXT}-more`,
  TEXT.replace('0af7651916cd43dd8448eb211c80319c', '0'.repeat(32)),
  TEXT.replace('b7ad6b7169203331', '0'.repeat(16)),
  'ada@example.com',
])('%s is none', (text) => {
  expect(parseTraceparent(text)).toBeUndefined();
});
