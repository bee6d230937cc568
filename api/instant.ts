import { z } from 'zod';
import type { Instant } from '../suppression/decision.ts';
import { isOutOfRange, toInstant } from '../suppression/instant.ts';

/** An instant as a request may state it. */
export const InstantSchema = z
  .string()
  .meta({ format: 'date-time' })
  .transform((text, context): Instant => {
    const instant = toInstant(text);
    if (instant !== undefined) return instant;
    context.addIssue({
      code: 'custom',
      // Programs that have no date send 0001-01-01, which a client would not find a fault in.
      message: isOutOfRange(text)
        ? 'must be from 1970 to 9999; a date that is not known is left out'
        : 'must be an RFC 3339 time with an offset, such as 2026-11-24T09:00:00Z',
    });
    return z.NEVER;
  });
