import { expect, test } from '@jest/globals';
import { KeyForm, describeKeyForm, makeKey } from '../../../connectors/contract/key-form.ts';

const SECRET = 'a secret of the tests';

// Made by `printf %s ada@example.com | sha256sum`, and `| openssl dgst -sha256 -hmac "a secret of the tests"`.
test.each<[KeyForm, string]>([
  ['plain', 'ada@example.com'],
  [{ sha256: 'hex' }, 'b5fc85e55755f9e0d030a10ab4429b6b2944855f9a0d60077fe832becbc41d72'],
  [{ hmac: SECRET }, '32611ec1587d62f19530a4eeb71a2bd9834b563971a837d6266ec78640d9c540'],
])('a key of the form %j is what a sender makes of the address by itself', (form, key) => {
  expect(makeKey(form, 'ada@example.com')).toBe(key);
});

test('a form in words tells one secret from another, and gives none away', () => {
  const [one, other] = [describeKeyForm({ hmac: SECRET }), describeKeyForm({ hmac: `${SECRET}!` })];
  expect([describeKeyForm('plain'), describeKeyForm({ sha256: 'hex' })]).toEqual(['plain', 'sha256:hex']);
  expect(one).toMatch(/^hmac:[0-9a-f]{8}$/);
  expect(one).not.toBe(other);
});

test('a secret that could be guessed is refused', () => {
  expect(KeyForm.safeParse({ hmac: 'short' }).success).toBe(false);
  expect(KeyForm.safeParse({ sha256: 'base64' }).success).toBe(false);
});
