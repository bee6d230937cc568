// What a store is keyed by. A sender must be able to look itself up in the store, so a hash is over the bare normal
// form, without kind, salt or prefix: `sha256sum` of the address gives the key.
import { createHmac, hash } from 'node:crypto';
import { z } from 'zod';

/** `key:` of a store in abide.yaml; absent is `plain`. */
export const KeyForm = z
  .union([
    z.literal('plain'),
    z.strictObject({ sha256: z.literal('hex') }),
    z.strictObject({ hmac: z.string().min(16, 'must have at least 16 characters') }),
  ])
  .describe('What the store is keyed by: plain, { sha256: hex }, or { hmac: ${SECRET} } (HMAC-SHA-256, hex)');
export type KeyForm = z.output<typeof KeyForm>;

/** The store's key for an address in its normal form: the address, or 64 lower-case hex digits made of its UTF-8 bytes. */
export function makeKey(form: KeyForm, plain: string): string {
  if (form === 'plain') return plain;
  if ('sha256' in form) return hash('sha256', plain, 'hex');
  return createHmac('sha256', form.hmac).update(plain).digest('hex');
}

/**
 * The form in words, without the secret, for the registration: it changes whenever the keys would. The fingerprint is 32 bits of an
 * HMAC under the secret: enough to notice another secret, but nothing to compute keys from.
 */
export function describeKeyForm(form: KeyForm): string {
  if (form === 'plain') return 'plain';
  if ('sha256' in form) return 'sha256:hex';
  return `hmac:${createHmac('sha256', form.hmac).update('abide key form').digest('hex').slice(0, 8)}`;
}
