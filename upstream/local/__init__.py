"""Small real models on this machine, each from a wheel, in a process of their own that speaks OpenAI's HTTP.

They come with the extra `local-models`. To everybody else they are a provider like any other, so that a model that
crashes, hangs or grows takes nothing with it. Only `installed` may be imported without the extra.
"""
