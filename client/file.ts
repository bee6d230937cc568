// A file on its way out: piece by piece, as fast as pieces are taken, and opened anew for each try if that can be done.

/** Pieces of a file, in order; text is sent as UTF-8. */
export type FilePieces = ReadableStream<Uint8Array> | AsyncIterable<Uint8Array | string>;

/** What is sent as a file. A Blob, or a function that opens it, can be sent again if the line breaks; pieces go once. */
export type FileSource = Blob | FilePieces | (() => Blob | FilePieces | Promise<Blob | FilePieces>);

/** A Blob goes to the platform as it is, and its progress cannot be seen: it has a second for each so many bytes. */
const BLOB_BYTES_A_SECOND_MIN = 64 * 1024;

/** How one try moves on. */
export type Movement = {
  /** It is the source that takes its time now. */
  reads(): void;
  /** A piece of the file goes, or as much as may take `expectedMs`. */
  goes(expectedMs?: number): void;
};

/** The body of one try. */
export type FileBody = {
  readonly init: RequestInit & { readonly duplex?: 'half' };
  /** The error of the caller's own source, if it failed. */
  failure(): { readonly error: unknown } | undefined;
  /** Closes the source, wherever reading is. */
  end(): void;
};

export const isGivenAgain = (source: FileSource): boolean =>
  typeof source === 'function' || source instanceof Blob;

export async function openFile(source: FileSource, movement: Movement): Promise<FileBody> {
  if (typeof source === 'function') {
    movement.reads();
    source = await source();
    movement.goes();
  }
  if (!(source instanceof Blob)) return streamed(source, movement);
  movement.goes((source.size / BLOB_BYTES_A_SECOND_MIN) * 1_000);
  // Not as a stream: most browsers cannot send one, and all of them send a Blob from the disk.
  return { init: { body: source }, failure: () => undefined, end: () => undefined };
}

function streamed(pieces: FilePieces, movement: Movement): FileBody {
  const reading = readingOf(pieces);
  const toBytes = createEncoder();
  let failure: { readonly error: unknown } | undefined;
  let isOver = false;
  const end = (): void => {
    if (isOver) return;
    isOver = true;
    reading.end().catch(() => undefined);
  };
  const pull = async (controller: ReadableStreamDefaultController<Uint8Array>): Promise<void> => {
    movement.reads();
    try {
      const next = await reading.next();
      if (isOver) return;
      movement.goes();
      const isLast = next.done === true;
      const bytes = toBytes(isLast ? '' : next.value, isLast);
      if (isLast) {
        isOver = true;
        controller.close();
      } else controller.enqueue(bytes);
    } catch (error) {
      if (isOver) return;
      isOver = true;
      failure = { error };
      controller.error(error);
    }
  };
  // Nothing is read ahead of what is taken.
  const body = new ReadableStream<Uint8Array>({ pull, cancel: end }, { highWaterMark: 0 });
  return { init: { body, duplex: 'half' }, failure: () => failure, end };
}

/**
 * Text as UTF-8. A piece may end within a character of two code units; the next one goes on there. Throws a TypeError at half a
 * character: as U+FFFD it would be somebody else's address.
 */
function createEncoder(): (piece: Uint8Array | string, isLast: boolean) => Uint8Array {
  const encoder = new TextEncoder();
  let half = '';
  return (piece, isLast) => {
    const text = half + (typeof piece === 'string' ? piece : '');
    half = !isLast && typeof piece === 'string' ? (/[\ud800-\udbff]$/.exec(text)?.[0] ?? '') : '';
    const whole = text.slice(0, text.length - half.length);
    if (!whole.isWellFormed()) throw new TypeError('The file has half a character (an unpaired surrogate).');
    return typeof piece === 'string' ? encoder.encode(whole) : piece;
  };
}

type Reading = {
  next(): Promise<IteratorResult<Uint8Array | string, unknown>>;
  end(): Promise<unknown>;
};

function readingOf(pieces: FilePieces): Reading {
  // Not every browser's stream is iterable.
  if (pieces instanceof ReadableStream) {
    const reader = pieces.getReader();
    return { next: () => reader.read(), end: () => reader.cancel() };
  }
  // Not every program is compiled. A text is not taken: it might be meant as the name of a file.
  const iterator = (pieces as Partial<typeof pieces> | null | undefined)?.[Symbol.asyncIterator]?.();
  if (iterator === undefined) {
    throw new TypeError(
      'Give a file as a Blob, a ReadableStream, an AsyncIterable, or a function that opens one; for a text: new Blob([text]).',
    );
  }
  return { next: () => iterator.next(), end: async () => iterator.return?.() };
}
