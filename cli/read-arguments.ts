// Reads what is typed as Commander asks for it: gives a value, or throws InvalidArgumentError.
import { InvalidArgumentError } from 'commander';
import { toInstant } from '../suppression/instant.ts';

export const readInstant = (text: string): string => {
  const instant = toInstant(text);
  if (instant !== undefined) return instant;
  throw new InvalidArgumentError(
    'Give a time with an offset, from 1970 to 9999, such as 2026-11-24T09:00:00Z.',
  );
};

export const readCount =
  (least: number, most = Infinity) =>
  (text: string): number => {
    const count = Number(text);
    if (/^\d{1,15}$/.test(text) && count >= least && count <= most) return count;
    const range = most === Infinity ? `${least} or more` : `${least} to ${most}`;
    throw new InvalidArgumentError(`Give a whole number, ${range}.`);
  };

const REASON_CHARACTERS_MAX = 500;
/** For the audit log, which nobody can correct: an empty reason would stand there for ever. */
export const readReason = (text: string): string => {
  if (text.trim() !== '' && text.length <= REASON_CHARACTERS_MAX) return text;
  throw new InvalidArgumentError(`Say why, in at most ${REASON_CHARACTERS_MAX} characters.`);
};
