import { InvalidArgumentError } from 'commander';
import { toInstant } from '../api/instant.ts';

/** A time as it is typed. */
export const readInstant = (text: string): string => {
  const instant = toInstant(text);
  if (instant !== undefined) return instant;
  throw new InvalidArgumentError('Give a time with an offset, such as 2026-11-24T09:00:00Z.');
};
