"""Hash encoders: embeddings float32[N, D] to logits float32[N, bits], whose packed signs are the codes.

One module a kind. `trained` is the head that is trained with the model, the default. The others are fitted afterwards
on embeddings, by the stage `fit-codes`, and lie beside the model's weights.
"""
