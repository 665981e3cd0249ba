/**
 * Does something to each item, several at once. When one fails no other is begun, and it is thrown once those under
 * way have ended, so that nothing of them goes on behind the caller's back.
 * @param atOnce how many, at least 1
 * @returns what came of each, in the order of the items
 */
export async function mapAtOnce<T, R>(
  items: readonly T[],
  atOnce: number,
  body: (item: T) => Promise<R>,
): Promise<R[]> {
  const results: R[] = []
  const errors: unknown[] = []
  const waiting = items.entries()
  const worker = async () => {
    for (const [index, item] of waiting) {
      try {
        results[index] = await body(item)
      } catch (error) {
        errors.push(error)
      }
      if (errors.length > 0) return
    }
  }
  await Promise.all(Array.from({ length: Math.min(atOnce, items.length) }, worker))
  if (errors.length > 0) throw errors[0]
  return results
}
