import { randomBytes } from 'node:crypto';
import { describe, expect, test } from '@jest/globals';
import fc from 'fast-check';
import { open, seal, sealedWith } from '../../suppression/seal.ts';

const KEY = { id: 7, secret: randomBytes(32) };
const CONTEXT = ['0199aaaa-0000-7000-8000-000000000001', 'email'] as const;
const UNREADABLE = expect.objectContaining({ code: 'SEALED_UNREADABLE' });

/** Every single bit of it changed, one at a time. */
const flips = (envelope: Buffer): Buffer[] =>
  Array.from({ length: envelope.length * 8 }, (_, bit) => {
    const changed = Buffer.from(envelope);
    changed[bit >> 3]! ^= 1 << (bit & 7);
    return changed;
  });

test('what was sealed opens as it was, whatever the text, and the text is nowhere in it', () => {
  fc.assert(
    fc.property(fc.string({ unit: 'grapheme' }), fc.integer({ min: 1, max: 0xffffffff }), (text, id) => {
      const envelope = seal(text, { ...KEY, id }, CONTEXT);
      expect(open(envelope, { ...KEY, id }, CONTEXT)).toBe(text);
      expect(sealedWith(envelope)).toBe(id);
      if (text.length > 4) expect(envelope.includes(text)).toBe(false);
    }),
  );
});

test('an envelope is 0x01, key id, nonce, ciphertext, tag', () => {
  const envelope = seal('ada', { ...KEY, id: 0x01020304 }, CONTEXT);
  expect([...envelope.subarray(0, 5)]).toEqual([1, 1, 2, 3, 4]);
  expect(envelope).toHaveLength(1 + 4 + 12 + 3 + 16);
});

test('the same text sealed twice is two envelopes: nobody sees that they are one person', () => {
  const nonces = Array.from({ length: 2_000 }, () =>
    seal('ada@example.com', KEY, CONTEXT).subarray(5, 17).toString('hex'),
  );
  expect(new Set(nonces).size).toBe(nonces.length);
});

describe('an envelope does not open', () => {
  const envelope = seal('ada@example.com', KEY, CONTEXT);

  test('with any bit of it changed', () => {
    for (const changed of flips(envelope)) expect(() => open(changed, KEY, CONTEXT)).toThrow(UNREADABLE);
  });

  test('cut short or made longer', () => {
    for (let length = 0; length < envelope.length; length += 1)
      expect(() => open(envelope.subarray(0, length), KEY, CONTEXT)).toThrow(UNREADABLE);
    expect(() => open(Buffer.concat([envelope, Buffer.alloc(1)]), KEY, CONTEXT)).toThrow(UNREADABLE);
  });

  test('under another key, of the same id or another', () => {
    expect(() => open(envelope, { ...KEY, secret: randomBytes(32) }, CONTEXT)).toThrow(UNREADABLE);
    expect(() => open(envelope, { ...KEY, id: 8 }, CONTEXT)).toThrow(UNREADABLE);
  });

  test('in another row or another column', () => {
    expect(() => open(envelope, KEY, [CONTEXT[0].replace('1', '2'), CONTEXT[1]])).toThrow(UNREADABLE);
    expect(() => open(envelope, KEY, [CONTEXT[0], 'phone'])).toThrow(UNREADABLE);
    expect(() => open(envelope, KEY, [`${CONTEXT[0]}e`, 'mail'])).toThrow(UNREADABLE);
  });

  test('and its error does not tell what is in it', () => {
    try {
      open(flips(envelope)[150]!, KEY, CONTEXT);
    } catch (error) {
      expect(String(error)).not.toContain('ada');
    }
  });
});
