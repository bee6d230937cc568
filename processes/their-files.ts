/** The files of the user's own that were loaded, as they stand in a stack. */
const theirFiles = new Set<string>();

export function noteTheirs(file: URL): void {
  theirFiles.add(file.href);
}

/**
 * Whether an error that nobody caught comes from a connector's file: that must not end what carries to the other stores. Nothing of ours
 * throws what has no stack.
 */
export const isTheirs = (error: unknown): boolean => {
  const stack = error instanceof Error ? error.stack : undefined;
  return [...theirFiles].some((file) => stack === undefined || stack.includes(file));
};
