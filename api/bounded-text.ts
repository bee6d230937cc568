import { z } from 'zod';

/** Lines and tabs are text; no other control character is. */
const TEXT = /^(?:[^\p{Cc}\p{Cs}]|[\t\n\r])*$/u;

/** Counts characters as people and JSON Schema do, not UTF-16 units; a text that is too long is not taken apart. */
export const isAtMost = (text: string, characters: number): boolean =>
  text.length <= characters || (text.length <= 2 * characters && Array.from(text).length <= characters);

/** Any text of at most so many characters. */
export const shortText = (charactersMax: number) =>
  z
    .string()
    .refine((text) => isAtMost(text, charactersMax), `must have at most ${charactersMax} characters`)
    .meta({ maxLength: charactersMax });

/** What somebody wrote: bounded, without control characters but tabs and line ends. */
export const boundedText = (charactersMax: number, description: string) =>
  z
    .string()
    .refine((text) => isAtMost(text, charactersMax), `must have at most ${charactersMax} characters`)
    .regex(TEXT, 'must not have control characters')
    // Readers of schemas differ on classes of Unicode characters, so the description says it in words.
    .meta({ description, maxLength: charactersMax, pattern: undefined });
