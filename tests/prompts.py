"""Twenty prompts of many kinds, to compare an engine's answers with a reference; chosen before any answer was seen."""

TWENTY_PROMPTS = (
    "What is the capital of France?",
    "Explain in two sentences why the sky is blue.",
    "Write a short poem about a lighthouse in winter.",
    "Give me three ideas for a vegetarian dinner with lentils.",
    "My train is cancelled and I have an interview in an hour. What should I do?",
    "Summarise: The committee met on Tuesday, agreed on the budget, and put off the vote on the bridge until May.",
    "Write a Python function that returns the n-th Fibonacci number.",
    "def quicksort(items):\n    if len(items) <= 1:\n        return items\n    pivot = items[0]\n",
    "What does this do? SELECT name, COUNT(*) FROM orders GROUP BY name HAVING COUNT(*) > 3;",
    'Turn this into JSON: name Ada, age 36, languages English and French.\n{"name":',
    "Translate to Spanish: Good morning, where is the library?",
    "Was ist der Unterschied zwischen Wetter und Klima?",
    "Raconte une histoire très courte sur un chat qui sait lire.",
    "日本の首都はどこですか。",
    "Напиши одно предложение о море.",  # noqa: RUF001
    "Q: 2 + 2\nA: 4\nQ: 10 - 3\nA: 7\nQ: 6 * 7\nA:",
    "great film => positive\nboring and long => negative\nI would watch it again => positive\na waste of time =>",
    "List the prime numbers between 10 and 40.",
    "A shirt costs 24.50 and is reduced by 20 %. What is the new price? Think step by step.",
    "Continue: 1, 1, 2, 3, 5, 8, 13, 21, 😀, 34,",
)
