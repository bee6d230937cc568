import { z } from 'zod';
import { HELD_SCOPES_MAX } from '../../suppression/acknowledgement.ts';

/**
 * The suppressed scopes of one subject, as a store's answer has them. The first fault ends it: an array of zod makes an issue of every
 * wrong element, which took half a minute and 2 GB for the two million that 4 MiB of JSON may have.
 */
export const HeldScopes = z.custom<string[]>(
  (value) =>
    Array.isArray(value) && value.length <= HELD_SCOPES_MAX && value.every((one) => typeof one === 'string'),
  `must be a list of at most ${HELD_SCOPES_MAX} texts`,
);
