"""The paper's funnel behind retrieval: channels, a ranker, the share exposed (AER, UER), and conversion."""
