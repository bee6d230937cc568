import type { Context } from 'koa';
import { z } from 'zod';
import type { Fault } from '../../suppression/errors.ts';
import type { HeaderField } from '../operation.ts';

export const IDEMPOTENCY_KEY = /^[\x21-\x7e]{1,255}$/;

export const IDEMPOTENCY_HEADER: Readonly<Record<string, HeaderField>> = {
  'Idempotency-Key': {
    description:
      'Your name for this one request: repeats under the same key count as one. Kept for 30 days, per client.',
    schema: z.string().regex(IDEMPOTENCY_KEY),
  },
};

/** The header's key; if it is malformed or differs from the body's, that is a fault beside the body's own. */
export function keyInHeader(
  ctx: Context,
  body: unknown,
): { key: string | undefined; faults: readonly Fault[] } {
  const header = ctx.req.headers['idempotency-key'];
  if (header === undefined) return { key: undefined, faults: [] };
  const key = Array.isArray(header) ? header.join(',') : header;
  const inBody =
    typeof body === 'object' && body !== null
      ? (body as { idempotency_key?: unknown }).idempotency_key
      : undefined;
  const detail = !IDEMPOTENCY_KEY.test(key)
    ? 'the Idempotency-Key header must be 1 to 255 visible ASCII characters'
    : typeof inBody === 'string' && inBody !== key
      ? 'differs from the Idempotency-Key header'
      : undefined;
  return { key, faults: detail === undefined ? [] : [{ pointer: '/idempotency_key', detail }] };
}
